"""Checkpoints as the research code writes them, of any architecture, with random weights that do something."""

import json
from pathlib import Path

import torch

MODEL = {
    "hidden_channels": 4, "hidden_channels_dec": None, "gin_channels": 0, "n_blocks_dec": 2, "kernel_size_dec": 3,
    "dilation_rate": 1, "n_block_layers": 2, "n_sqz": 2, "n_split": 4, "p_dropout_dec": 0.05, "sigmoid_scale": False,
}  # fmt: skip


def research_checkpoint(folder: Path, seed: int, *, bins: int = 6, epoch: int = 1, **model) -> Path:
    """Write `config.json` and `G_<epoch>.pth` and return the folder; `model` changes keys of `MODEL`."""
    torch.manual_seed(seed)
    model = MODEL | model
    channels, hidden = bins * model["n_sqz"], model["hidden_channels_dec"] or model["hidden_channels"]
    state = {}

    def conv(name: str, outputs: int, inputs: int, kernel: int) -> None:
        state[f"{name}.weight_g"] = 0.5 + torch.rand(outputs, 1, 1)
        state[f"{name}.weight_v"] = torch.randn(outputs, inputs, kernel)
        state[f"{name}.bias"] = 0.1 * torch.randn(outputs)

    for step in range(model["n_blocks_dec"]):
        norm, mix, coupling = (f"decoder.flows.{3 * step + part}" for part in range(3))
        state[f"{norm}.logs"] = 0.2 * torch.randn(1, channels, 1)
        state[f"{norm}.bias"] = 0.2 * torch.randn(1, channels, 1)
        state[f"{mix}.weight"] = torch.linalg.qr(torch.randn(model["n_split"], model["n_split"]))[0]
        state[f"{mix}.weight"][:, 0] *= torch.linalg.det(state[f"{mix}.weight"]).sign()
        conv(f"{coupling}.start", hidden, channels // 2, 1)
        for layer in range(model["n_block_layers"]):
            last = layer == model["n_block_layers"] - 1
            conv(f"{coupling}.wn.in_layers.{layer}", 2 * hidden, hidden, model["kernel_size_dec"])
            conv(f"{coupling}.wn.res_skip_layers.{layer}", hidden if last else 2 * hidden, hidden, 1)
        state[f"{coupling}.end.weight"] = 0.1 * torch.randn(channels, hidden, 1)
        state[f"{coupling}.end.bias"] = 0.1 * torch.randn(channels)
    window = min(1024, 2 * (bins - 1))  # as many bins as the model takes, or one less
    data = {"n_ipt_channels": bins, "sampling_rate": 22050, "filter_length": window, "hop_length": window // 4}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"train": {}, "data": data, "model": model}))
    content = {"model": state, "iteration": 7, "optimizer": {"state": {}}, "learning_rate": 1e-4}
    torch.save(content, folder / f"G_{epoch}.pth")
    return folder


def research_names(stacked: dict[str, torch.Tensor], order: torch.Tensor) -> dict[str, torch.Tensor]:
    """Weights of a `flowsep.fast.likelihood.Likelihood`, or their gradients, by the names of the research code.

    `stacked` holds them by the names of its parameters, steps first; `order` is the buffer of that module.
    """
    back, half = order.argsort(), order[: len(order) // 2].argsort()
    both = torch.cat([half, half + len(half)])
    named = {}
    for step in range(len(stacked["logs"])):
        own = {name: tensor[step] for name, tensor in stacked.items()}
        norm, mix, coupling = (f"decoder.flows.{3 * step + part}" for part in range(3))
        named[f"{norm}.logs"], named[f"{norm}.bias"] = own["logs"][back][None], own["bias"][back][None]
        named[f"{mix}.weight"] = own["mixing"]
        convs = {"start": (own["start"][:, half], own["start_norm"], own["start_bias"])}
        layers = len(own["gates"])
        for layer in range(layers):
            rows = ("skip",) if layer == layers - 1 else ("residual", "skip")
            for theirs, ours in (("in_layers", ("gates",)), ("res_skip_layers", rows)):
                convs[f"wn.{theirs}.{layer}"] = tuple(
                    torch.cat([own[f"{name}{part}"][layer] for name in ours]) for part in ("", "_norm", "_bias")
                )
        for name, (direction, length, bias) in convs.items():
            named[f"{coupling}.{name}.weight_v"] = direction.reshape(*direction.shape[:2], -1)
            named[f"{coupling}.{name}.weight_g"] = length.unsqueeze(2)
            named[f"{coupling}.{name}.bias"] = bias[:, 0]
        named[f"{coupling}.end.weight"] = own["end"][both].unsqueeze(2)
        named[f"{coupling}.end.bias"] = own["end_bias"][both, 0]
    return named
