"""A prior's density, its file, and the files that must not pass for one."""

import copy
import math
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from flowsep import FlowsepError, GlowConfig, load_prior
from flowsep.weights import read_safetensors, save_safetensors

FIXTURE = Path(__file__).parents[1] / "fixtures" / "instglow_small"


def test_the_density_integrates_the_jacobian(tiny_prior):
    prior = tiny_prior()
    x = torch.rand(2, 513, 4)
    z, logdet = prior.encode(x)
    assert z.shape == (2, 514, 4)
    expected = -0.5 * (z**2).sum(dim=(1, 2)) - 0.5 * z[0].numel() * math.log(2 * math.pi) + logdet
    torch.testing.assert_close(prior.log_prob(x), expected)
    torch.testing.assert_close(prior.nll(x), -expected.mean() / z[0].numel())
    back, inverse_logdet = prior.decode(z)
    torch.testing.assert_close(back[:, :513], x, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(inverse_logdet, -logdet)


def test_samples_depend_on_the_seed_and_shrink_with_the_temperature(tiny_prior):
    prior = tiny_prior()
    a, b = prior.sample(6, batch=2, seed=1), prior.sample(6, batch=2, seed=2)
    assert a.shape == (2, 514, 6)
    torch.testing.assert_close(a, prior.sample(6, batch=2, seed=1))
    assert (a - b).abs().max() > 0.1
    assert (prior.sample(6, temperature=0.0) - prior.decode(torch.zeros(1, 514, 6))[0]).abs().max() == 0


def test_a_file_rebuilds_its_prior(tiny_prior, tmp_path):
    prior = tiny_prior(source='bass "5" <b>')
    path = tmp_path / "ünter folder" / "it's.safetensors"
    prior.save(path)
    again = load_prior(path)
    assert (again.model, again.feature, again.source) == (prior.model, prior.feature, prior.source)
    assert again.provenance == prior.provenance
    assert not again.training
    for name, value in prior.state_dict().items():
        assert torch.equal(again.state_dict()[name], value)
    assert [p.name for p in path.parent.iterdir()] == [path.name]  # no temporary file is left
    before = path.read_bytes()
    again.save(path)
    assert path.read_bytes() == before  # so that a hash of the file names the weights


SIZES = {
    "4 groups": {},
    "squeeze by 4, 8 groups": {"bins": 516, "squeeze": 4, "groups": 8, "steps": 3},
    "one layer, sigmoid": {"bins": 516, "squeeze": 1, "layers": 1, "sigmoid_scale": True},
}


def in_grouped_order(value, groups, axis=0, parts=2):
    """Channels (parts, C / groups, groups / 2) as (parts, groups / 2, C / groups)."""
    value = value.movedim(axis, 0)
    blocks = value.reshape(parts, -1, groups // 2, *value.shape[1:]).transpose(1, 2)
    return blocks.reshape(value.shape).movedim(0, axis).contiguous()


def save_grouped(prior, path):
    """A file as flowsep wrote it while its flows had their channels in the engine's order."""
    groups, tensors = prior.model.groups, {}
    for name, value in prior.glow.state_dict().items():
        _, number, part = name.split(".", 2)
        if int(number) % 3 == 0 or part.startswith("net.end."):
            value = in_grouped_order(value, groups)
        elif part == "net.start.weight":
            value = in_grouped_order(value, groups, axis=1, parts=1)
        tensors[name] = value
    prior.save(path)
    header, _ = read_safetensors(path)
    save_safetensors(path, tensors, header | {"model": header["model"] | {"order": "grouped"}})
    return tensors


def test_half_precision_halves_the_file_and_hardly_moves_the_density(tiny_prior, tmp_path):
    prior = tiny_prior()
    prior.save(tmp_path / "whole.safetensors")
    prior.save(tmp_path / "half.safetensors", half=True)
    sizes = [(tmp_path / f"{name}.safetensors").stat().st_size for name in ("half", "whole")]
    assert sizes[0] < 0.6 * sizes[1]
    again = load_prior(tmp_path / "half.safetensors")
    assert all(value.dtype == torch.float32 for value in again.state_dict().values())
    x = torch.rand(2, 513, 8)
    torch.testing.assert_close(again.nll(x), prior.nll(x), atol=2e-3, rtol=0)
    assert again.provenance == prior.provenance


@pytest.mark.parametrize("name", SIZES)
def test_a_file_in_grouped_order_is_the_same_prior(tiny_prior, tmp_path, name):
    model = GlowConfig(**({"steps": 2, "hidden": 6, "layers": 2, "kernel": 3} | SIZES[name]))
    prior = tiny_prior(model=model)
    for key, parameter in prior.glow.named_parameters():  # each channel with numbers of its own
        if "net" in key or "logs" in key or "bias" in key:
            torch.nn.init.normal_(parameter, std=0.1)
    tensors = save_grouped(prior, tmp_path / "grouped.safetensors")
    moved = {key for key, value in tensors.items() if not torch.equal(value, prior.glow.state_dict()[key])}
    assert len(moved) == 5 * model.steps
    prior.save(tmp_path / "plain.safetensors")
    grouped, plain = (load_prior(tmp_path / f"{order}.safetensors") for order in ("grouped", "plain"))
    assert grouped.model == plain.model == model
    for key, value in plain.state_dict().items():
        assert torch.equal(grouped.state_dict()[key], value), key
    x = torch.rand(1, model.bins, 8)
    assert torch.equal(grouped.encode(x)[0], prior.encode(x)[0])
    grouped.save(tmp_path / "again.safetensors")  # from now on in the one order
    assert (tmp_path / "again.safetensors").read_bytes() == (tmp_path / "plain.safetensors").read_bytes()


def test_weights_in_grouped_order_compute_what_the_old_flow_did(tiny_prior, tmp_path):
    """Which took channels in groups as blocks: on the way in and out one permutation, and none in between."""
    prior = tiny_prior(model=GlowConfig(steps=2, hidden=6, layers=2, kernel=3)).double()
    old = copy.deepcopy(prior.glow)
    old.load_state_dict(save_grouped(prior, tmp_path / "grouped.safetensors"))
    for conv in old.layers[1::3]:
        conv._mix = lambda weight, x: (weight @ x.reshape(len(x), len(weight), -1)).view(x.shape)
    x = torch.rand(2, 514, 8, dtype=torch.float64)
    z = in_grouped_order(old._fold(x), 4, axis=1)
    for layer in old.layers:
        z, _ = layer(z)
    torch.testing.assert_close(z, in_grouped_order(prior.glow._fold(prior.encode(x)[0]), 4, axis=1))


@pytest.mark.parametrize("order", ["reversed", "", None, 3, ["grouped"], "x" * 1000])
def test_an_unknown_order_of_channels_is_refused(tiny_prior, tmp_path, order):
    path = tmp_path / "odd.safetensors"
    tiny_prior().save(path)
    header, tensors = read_safetensors(path)
    save_safetensors(path, tensors, header | {"model": header["model"] | {"order": order}})
    with pytest.raises(FlowsepError, match=r"odd\.safetensors: damaged header \(order of channels: neither 'plain'"):
        load_prior(path)


@pytest.mark.parametrize("name", ["layers.0.logs", "layers.2.net.start.weight", "layers.2.net.end.bias"])
@pytest.mark.parametrize("value", [torch.tensor(0.0), torch.zeros(0), torch.zeros(3, 3, 3, 3)])
def test_misshaped_weights_in_grouped_order_are_refused(tiny_prior, tmp_path, name, value):
    path = tmp_path / "odd.safetensors"
    save_grouped(tiny_prior(), path)
    header, tensors = read_safetensors(path)
    save_safetensors(path, tensors | {name: value}, header)
    with pytest.raises(FlowsepError, match=rf"odd\.safetensors: .*misshaped weight '{name}'"):
        load_prior(path)


def test_sizes_know_no_order():
    for order in ("grouped", "plain", "reversed"):
        with pytest.raises(ValueError, match="unknown key 'order' in GlowConfig"):
            GlowConfig(order=order)


def damage(path, tmp_path, how):
    header, tensors = read_safetensors(path)
    sizes = header["model"]
    out = tmp_path / "damaged.safetensors"
    if how == "truncated":
        out.write_bytes(path.read_bytes()[:-100])
    elif how == "empty":
        out.write_bytes(b"")
    elif how == "other architecture":
        save_safetensors(out, tensors, header | {"model": sizes | {"steps": 3}})
    elif how == "misshaped":
        save_safetensors(out, tensors, header | {"model": sizes | {"kernel": 5}})
    elif how == "surplus":
        save_safetensors(out, tensors | {"stranger": torch.zeros(1)}, header)
    elif how == "nan":
        tensors["layers.0.logs"][0] = math.nan
        save_safetensors(out, tensors, header)
    elif how == "no header":
        save_file(tensors, out)
    elif how == "flipped":
        content = bytearray(path.read_bytes())
        content[-5] ^= 1  # one bit of one weight
        out.write_bytes(content)
    elif how == "bad header":
        save_safetensors(out, tensors, header | {"model": {"steps": "many"}})
    return out


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("truncated", "not a whole .safetensors file"),
        ("empty", "not a whole .safetensors file"),
        ("other architecture", r"missing weight layers\.6.*another architecture"),
        ("misshaped", r"misshaped weight 'layers\.2\.net\.gates\.0\.weight' is \(16, 8, 3\), expected \(16, 8, 5\)"),
        ("surplus", "surplus weight stranger"),
        ("nan", "NaN"),
        ("no header", "no sha256 of its content; flowsep did not write it"),
        ("flipped", "damaged since it was written: sha256"),
        ("bad header", "damaged header"),
    ],
)
def test_damaged_files_are_refused_by_name(tiny_prior, tmp_path, how, message):
    good = tmp_path / "good.safetensors"
    tiny_prior().save(good)
    with pytest.raises(FlowsepError, match=message) as error:
        load_prior(damage(good, tmp_path, how))
    assert "damaged.safetensors" in str(error.value)


class Payload:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return (open, (str(self.marker), "w"))  # harmless, but it would show


def test_a_pickle_runs_no_code(tmp_path):
    marker = tmp_path / "ran"
    path = tmp_path / "evil.safetensors"
    path.write_bytes(pickle.dumps(Payload(marker)))
    with pytest.raises(FlowsepError, match=r"not a whole \.safetensors file"):
        load_prior(path)
    folder = tmp_path / "research"
    folder.mkdir()
    (folder / "config.json").write_bytes((FIXTURE / "config.json").read_bytes())
    torch.save({"model": Payload(marker)}, folder / "G_1.pth")
    with pytest.raises(FlowsepError, match="nothing was run"):
        load_prior(folder)
    assert not marker.exists()
    pickle.loads(path.read_bytes())  # the payload itself works: the test could fail
    assert marker.exists()


def test_no_such_file(tmp_path):
    with pytest.raises(FlowsepError, match="no such prior"):
        load_prior(tmp_path / "nothing.safetensors")
