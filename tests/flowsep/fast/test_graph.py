"""The exported graph against the search that it is an iteration of: the same estimates, losses and stems."""

import json
import sys

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from new_priors import rounded

from flowsep import GlowConfig, SeparationConfig, Separator, cli, load_priors, separate_magnitude
from flowsep.fast.graph import export_graph
from flowsep.fast.symbols import in_eight_bits
from flowsep.files import FlowsepError
from flowsep.search import config_for

SIZES = {"bins": 16, "steps": 3, "hidden": 6, "layers": 2, "kernel": 3, "dilation_rate": 2, "dropout": 0.0}
SHAPES = {
    "as shipped": {},
    "squeeze by 4, 8 groups, sigmoid": {"squeeze": 4, "groups": 8, "sigmoid_scale": True},
    "no squeeze, 2 groups, kernel 1, one layer": {"squeeze": 1, "groups": 2, "kernel": 1, "layers": 1},
}
SETTINGS = {
    "noisy": SeparationConfig.for_noisy_priors(iterations=6, wiener=False),
    "paper": SeparationConfig.paper(iterations=6),
    "likelihood in z": SeparationConfig.paper(iterations=6, alpha=0.1, lr_every=2),
}


class Run:
    """`search.search` by a graph: hands on its own results until the last iteration."""

    def __init__(self, path, weights=()):
        self.weights = dict(weights)
        self.session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        about = self.session.get_modelmeta().custom_metadata_map["flowsep"]
        self.facts = json.loads(about)

    def __call__(self, target, chosen, iterations, alpha):
        """Estimates and losses; target padded, (bins, frames)."""
        channels = self.facts["bins"] * self.facts["squeeze"]
        zeros = np.zeros((len(chosen), channels, target.shape[1] // self.facts["squeeze"]), np.float32)
        state, losses = {"z": zeros, "first": zeros, "second": zeros}, []
        given = self.weights | {
            "target": target,
            "chosen": np.array(chosen, np.int32),
            "alpha": np.array(alpha, np.float32),
        }
        names = [output.name for output in self.session.get_outputs()]
        for step in range(1, iterations + 1):
            given |= {"step": np.array(step, np.float32)}
            out = dict(zip(names, self.session.run(None, given | state), strict=True))
            state = {name: out[f"next_{name}"] for name in state}
            losses.append(float(out["loss"]))
        return out["estimates"], losses


@pytest.fixture
def three(tiny_prior):
    """Three priors in half precision, as a graph keeps them, whose couplings do something."""

    def build(**changes):
        priors = {s: tiny_prior(k, s, GlowConfig(**SIZES | changes)) for k, s in enumerate(("vocals", "bass", "drums"))}
        for prior in priors.values():
            prior.feature = prior.feature.model_copy(update={"n_fft": 28})  # 15 bins, and a padded one
            prior.glow.half().float()
        return priors

    return build


def magnitudes(bins=15, frames=24):
    return torch.rand(bins, frames, generator=torch.Generator().manual_seed(3)) ** 3 * 4


def padded(target):
    return torch.nn.functional.pad(target, (0, 0, 0, 1)).numpy()


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
@pytest.mark.parametrize("changes", SHAPES.values(), ids=SHAPES)
def test_runs_of_the_graph_are_the_search(three, changes, settings, tmp_path):
    priors, losses = three(**changes), []
    export_graph(priors, settings, tmp_path / "graph.onnx")
    expected = separate_magnitude(magnitudes(), priors, settings, lambda state: losses.append(float(state["loss"])))
    estimates, seen = Run(tmp_path / "graph.onnx")(padded(magnitudes()), [0, 1, 2], settings.iterations, settings.alpha)
    reference = torch.stack([*expected.values()]).numpy()
    assert np.abs(estimates[:, :15] - reference).max() < 1e-4 * np.abs(reference).max()
    assert seen == pytest.approx(losses, rel=1e-4) and losses[-1] < losses[0]


@pytest.mark.parametrize("exponent", [0.5, 0.3])
def test_runs_with_priors_of_compressed_magnitudes_are_the_search(three, exponent, tmp_path):
    priors, settings, losses = three(), SETTINGS["noisy"], []
    for prior in priors.values():
        prior.feature = prior.feature.model_copy(update={"exponent": exponent})
    export_graph(priors, settings, tmp_path / "graph.onnx")
    expected = separate_magnitude(magnitudes(), priors, settings, lambda state: losses.append(float(state["loss"])))
    run = Run(tmp_path / "graph.onnx")
    estimates, seen = run(padded(magnitudes()), [0, 1, 2], settings.iterations, settings.alpha)
    reference = torch.stack([*expected.values()]).numpy()
    assert run.facts["exponent"] == exponent and seen == pytest.approx(losses, rel=1e-4)
    assert np.abs(estimates[:, :15] - reference).max() < 1e-4 * np.abs(reference).max()


def test_only_the_chosen_priors_explain_the_target(three, tmp_path):
    priors, settings = three(), SETTINGS["noisy"]
    export_graph(priors, settings, tmp_path / "graph.onnx")
    run = Run(tmp_path / "graph.onnx")
    expected = separate_magnitude(magnitudes(), {name: priors[name] for name in ("drums", "vocals")}, settings)
    estimates, _ = run(padded(magnitudes()), [2, 0], settings.iterations, settings.alpha)
    torch.testing.assert_close(torch.from_numpy(estimates[1, :15]), expected["vocals"], rtol=1e-4, atol=1e-4)
    assert run.facts["sources"] == ["vocals", "bass", "drums"] and run.facts["mask_power"] == 1.5


def test_weights_of_other_priors_are_inputs(three, tmp_path):
    """One prior's graph takes any number of priors: the file's weights are what it has where it is given none."""
    priors, settings = three(), SETTINGS["noisy"]
    export_graph({"bass": priors["bass"]}, settings, tmp_path / "one.onnx", bits=8)
    export_graph(priors, settings, tmp_path / "three.onnx", bits=8)
    stored = {
        each.name: onnx.numpy_helper.to_array(each) for each in onnx.load(tmp_path / "three.onnx").graph.initializer
    }
    rows = {name: row[:2] for name, row in stored.items() if name.startswith("weights_")}
    assert {*rows} == {"weights_float32", "weights_float16", "weights_int8"}
    expected, losses = Run(tmp_path / "three.onnx")(padded(magnitudes()), [0, 1], settings.iterations, settings.alpha)
    given, seen = Run(tmp_path / "one.onnx", rows)(padded(magnitudes()), [0, 1], settings.iterations, settings.alpha)
    np.testing.assert_allclose(given, expected, rtol=1e-5, atol=1e-5)
    assert seen == pytest.approx(losses, rel=1e-5)


def test_eight_bits_are_the_rounded_rows(three, tmp_path):
    priors, settings = three(), SETTINGS["noisy"]
    export_graph(priors, settings, tmp_path / "graph.onnx", bits=8)
    estimates, _ = Run(tmp_path / "graph.onnx")(padded(magnitudes()), [0, 1, 2], settings.iterations, settings.alpha)
    expected = separate_magnitude(magnitudes(), {name: rounded(prior) for name, prior in priors.items()}, settings)
    reference = torch.stack([*expected.values()]).numpy()
    assert np.abs(estimates[:, :15] - reference).max() < 1e-4 * np.abs(reference).max()
    weight = torch.randn(5, 7, generator=torch.Generator().manual_seed(1))
    q, scale = in_eight_bits(weight)
    assert q.dtype == torch.int8 and (q.abs().amax(dim=1) == 127).all()
    assert ((scale * q - weight).abs() <= scale / 2 * 1.001).all()


def test_stems_by_the_graph_are_the_separators(tmp_path, monkeypatch):
    """The priors that come with the repository, from audio to audio."""
    priors = load_priors()
    config = config_for(priors, iterations=5, refine=0)  # the graph is an iteration of the search
    export_graph(priors, config, tmp_path / "graph.onnx")
    mixture = 0.1 * np.random.default_rng(0).standard_normal((2, 22_050)).astype(np.float32)
    expected = Separator(priors, config)(mixture, 44_100)

    def by_graph(target, flows, config, callback):
        run = Run(tmp_path / "graph.onnx")
        return torch.from_numpy(run(target[0].numpy(), [0, 1, 2, 3], config.iterations, config.alpha)[0]).unsqueeze(0)

    monkeypatch.setattr("flowsep.separator.search", by_graph)
    for name, stem in Separator(priors, config)(mixture, 44_100).items():
        error = np.square(stem - expected[name]).sum() / np.square(expected[name]).sum()
        assert error < 1e-4, name  # 40 dB


def test_the_command_writes_a_graph_once(three, tmp_path, capsys):
    for name, prior in three().items():
        prior.save(tmp_path / "priors" / f"{name}.safetensors")
    out, command = tmp_path / "graph.onnx", ["export", str(tmp_path / "priors")]
    assert cli.main([*command, str(out), "--bits", "8"]) == 0
    onnx.checker.check_model(str(out))
    before = out.read_bytes()
    assert cli.main([*command, str(out)]) == 2 and "--force" in capsys.readouterr().err
    assert cli.main([*command, str(tmp_path / "graph.pt")]) == 2 and ".onnx" in capsys.readouterr().err
    assert cli.main([*command, str(out), "--bits", "8", "--force"]) == 0 and out.read_bytes() == before


def test_what_no_graph_can_hold(three, tmp_path, monkeypatch):
    priors, settings = three(), SETTINGS["noisy"]
    with pytest.raises(FlowsepError, match="'bass' and 'vocals' differ in sizes"):
        export_graph(priors | {"bass": three(hidden=4)["bass"]}, settings, tmp_path / "graph.onnx")
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(FlowsepError, match=r"flowsep\[export\]"):
        export_graph(priors, settings, tmp_path / "graph.onnx")
    assert not [*tmp_path.iterdir()]
