"""The bench: its statistics by known clocks, its counts by torch's own, its files; never how fast anything is."""

import importlib
import json
import math

import pandas as pd
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import TOPICS, floor, harness, separation, targets
from benchmarks.__main__ import main
from companion import show
from companion.tables import speed
from flowsep import FlowsepError, GlowConfig, Prior
from flowsep.config import FeatureConfig

MODEL = GlowConfig(bins=6, steps=3, hidden=5, layers=2, kernel=3, dropout=0.0)


class Clock:
    """Time that passes only when a function says so; each call of `spend` is remembered."""

    def __init__(self):
        self.now, self.log = 0.0, []

    def spend(self, name: str, seconds: float):
        def function():
            self.now += seconds
            self.log.append(name)

        return function

    def __call__(self, function):
        before = self.now
        function()
        return self.now - before


def test_functions_take_turns_and_each_begins_a_round():
    clock = Clock()
    functions = {"a": clock.spend("a", 1.0), "b": clock.spend("b", 2.0), "c": clock.spend("c", 3.0)}
    found = harness.interleave(functions, 4, clock, warmup=2)
    assert found == {"a": [1.0] * 4, "b": [2.0] * 4, "c": [3.0] * 4}
    assert "".join(clock.log) == "aabbcc" + "abc" + "bca" + "cab" + "abc"


def test_short_calls_are_repeated_until_a_sample_is_long_enough():
    clock = Clock()
    found = harness.interleave({"a": clock.spend("a", 0.25), "b": clock.spend("b", 4.0)}, 1, clock, least=1.0)
    assert found == {"a": [0.25], "b": [4.0]}
    assert clock.log == ["a", "a", "b", "b"] + ["a"] * 4 + ["b"]


def test_what_is_done_once_cancels_in_an_iteration():
    clock = Clock()
    loops = {
        "slow": lambda count: clock.spend("s", 10.0 + 2.0 * count)(),
        "none": lambda count: clock.spend("n", 5.0)(),  # as a clock too coarse shows it
    }
    found = harness.interleave_loops(loops, 2, 6, 3, clock)
    assert found["slow"] == ([2.0] * 3, [14.0] * 3)
    assert all(map(math.isnan, found["none"][0]))


def test_figures_are_medians_with_quartiles():
    row = harness.figure("a.b", "what", [5.0, 1.0, math.nan, 3.0, 2.0, 4.0], "s", reference="c", threads=2)
    assert (row["value"], row["low"], row["high"], row["repeats"]) == (3.0, 2.0, 4.0, 5)
    assert row["settings"] == {"threads": 2} and row["reference"] == "c"
    assert harness.figure("a.b", "what", [math.nan], "s")["value"] is None
    assert harness.ratios([4.0, 9.0], [2.0, 3.0]) == [2.0, 3.0]


def test_threads_are_put_back():
    before = torch.get_num_threads()
    with pytest.raises(RuntimeError, match="inside"), harness.threads(before + 1):
        assert torch.get_num_threads() == before + 1
        raise RuntimeError("inside")
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("passes", floor.PASSES)
def test_operations_are_those_that_torch_counts(passes, tiny_prior):
    """Of the network itself, forwards and with the gradients of the latents or of all weights."""
    frames, batch = 8, 2
    prior = tiny_prior(model=MODEL).requires_grad_("full" in passes)
    x = torch.rand(batch, MODEL.bins, frames).requires_grad_("latents" in passes)
    with FlopCounterMode(display=False) as counter:
        z, logdet = (prior.encode if "encode" in passes else prior.decode)(x)
        if "gradient" in passes:
            (z.square().sum() + logdet.sum()).backward()
    expected = batch * floor.PASSES[passes] * sum(floor.operations(MODEL, frames).values())
    assert counter.get_total_flops() == expected


def test_counts_of_the_papers_size_by_hand():
    weights = 12 * (514 * 128 + 4 * 128 * 256 * 5 + 3 * 128 * 256 + 128 * 128 + 128 * 1028)
    assert sum(x.count * x.inputs * x.outputs * x.kernel for x in floor.convolutions(GlowConfig())) == weights
    parts = floor.operations(GlowConfig(), 690)
    assert parts.pop("mixing") == 12 * 2 * 4 * 1028 * 345
    assert sum(parts.values()) == 2 * weights * 345
    assert floor.least_bytes(GlowConfig(), 690) == 4 * (2 * weights + 9 * 514 * 690)


def test_every_way_of_a_layer_does_the_operations_of_that_layer():
    layer = floor.Layer("gates", 4, 6, 3, 1)
    weights = torch.randn(2, 6, 4, 3)
    found = {}
    for name, way in floor.formulations(layer, 10, 2, 1, torch.float32, "cpu").items():
        with FlopCounterMode(display=False) as counter:
            way(weights)
        found[name] = counter.get_total_flops()
    all_taps = 2 * 2 * 10 * 4 * 6 * 3
    # of `shifts` torch counts the first product only, not those added in place
    assert found == {"convolution": all_taps, "grouped": all_taps, "matrix": all_taps, "shifts": all_taps / 3}


def test_the_floor_computes_all_convolutions_of_an_iteration():
    model = MODEL.model_copy(update={"kernel": 1})  # no way of which torch counts a part only
    made = floor.convolution_floor(model, 8, 2, 1, torch.float32, "cpu", harness.wall_clock, repeats=1, least=0.0)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        made.run()
    parts = floor.operations(model, 8)
    del parts["mixing"]
    assert counter.get_total_flops() == 2 * 2 * sum(parts.values())


def test_tame_weights_decode_without_overflow(tmp_path):
    model = GlowConfig(steps=12, hidden=16, layers=2, dropout=0.0)
    (folder,) = separation.checkpoints(tmp_path, model, 1)
    prior = separation.load_prior(folder)
    assert prior.model.model_dump(exclude={"dropout"}) == model.model_dump(exclude={"dropout"})
    assert prior.sample(8).abs().max() < 1e3


def test_quick_runs_write_whole_files_that_merge(tmp_path, capsys):
    path = tmp_path / "here.json"
    assert main(["--quick", "--only", "floor", "--out", str(path)]) == 0
    first = speed.read_bench(path)
    assert list(first["topics"]) == ["floor"]
    assert main(["--quick", "--only", "separation", "--out", str(path)]) == 0
    both = speed.read_bench(path)
    assert both["topics"]["floor"] == first["topics"]["floor"]  # to the second of its date
    about = both["topics"]["separation"]["provenance"]
    assert about["quick"] is True and about["torch"] == torch.__version__ and about["date"]
    assert "separation.speedup" in capsys.readouterr().out
    rows = speed.figures(both, "separation.gap")
    assert (rows[rows.arithmetic == "fp32"].value < 1e-3).all() and (rows[rows.arithmetic == "bf16"].value < 0.1).all()
    parts = speed.figures(both, "separation.part")
    assert (parts.value >= 0).all() and parts.part.is_unique
    assert (speed.figures(both, "floor.layer").value > 0).all()
    assert set(speed.provenance(both).loc["status"]) == {"done"} and len(speed.targets(both)) == len(both["targets"])
    assert len(speed.readable(speed.figures(both))) == len(speed.figures(both))


def row(name: str, value: float, **settings) -> dict:
    return harness.figure(name, "what", value, "x", **settings)


def test_targets_judge_every_figure_they_speak_of():
    rows = [row("separation.speedup", x, arithmetic="fp32", threads=n) for x, n in ((2.5, 1), (1.5, 2))]
    rows.append(row("convergence.compute", float("nan")))  # the quality was never reached
    rows += [row("separation.rtf_150", 0.01, system="plain"), row("separation.rtf_150", 0.03, system="flowsep")]
    found = {(x["figure"], json.dumps(x["settings"])): x["met"] for x in targets.compare(rows, "cpu")}
    assert found["separation.speedup", '{"arithmetic": "fp32", "threads": 1}'] is True
    assert found["separation.speedup", '{"arithmetic": "fp32", "threads": 2}'] is False
    assert found["memory.depth", "{}"] is None and found["convergence.compute", "{}"] is False
    assert not any(name == "separation.rtf_150" for name, _ in found)  # a target of the GPU alone
    (rtf,) = [x for x in targets.compare(rows, "cuda") if x["figure"] == "separation.rtf_150"]
    assert rtf["met"] is False and rtf["settings"] == {"system": "flowsep"}
    lines = targets.table(targets.compare(rows, "cpu")).splitlines()
    assert "NO" in next(line for line in lines if "threads 2" in line)
    assert {name.partition(".")[0] for name in (x.figure for x in targets.TARGETS)} <= {*TOPICS}


def test_each_topic_has_a_module():
    """One without is no package that a machine lacks, as a run would tell it."""
    assert all(callable(importlib.import_module(f"benchmarks.{name}").run) for name in TOPICS)


def test_a_missing_package_and_a_failure_are_told(monkeypatch):
    context = harness.Context(quick=True)

    def lacking(context):
        raise ModuleNotFoundError("No module named 'organ'", name="organ")

    def failing(context):
        raise FlowsepError("out of order")

    monkeypatch.setattr(floor, "run", lacking)
    found = harness.run_topic("floor", context)
    assert (found["status"], found["figures"]) == ("skipped", []) and "organ" in found["reason"]
    monkeypatch.setattr(floor, "run", failing)
    found = harness.run_topic("floor", context)
    assert (found["status"], found["reason"]) == ("failed", "FlowsepError: out of order")


def test_files_of_another_device_or_kind_are_left_alone(tmp_path, capsys):
    path = tmp_path / "b.json"
    path.write_text(json.dumps({"format": speed.FORMAT, "device": "an abacus", "kind": "cpu", "topics": {}}))
    with pytest.raises(FlowsepError, match="an abacus"):
        harness.merge(path, harness.Context(), {})
    path.write_text("{}")
    assert main(["--quick", "--only", "floor", "--out", str(path)]) == 2
    assert "not a bench" in capsys.readouterr().err and path.read_text() == "{}"
    path.write_text("[")
    with pytest.raises(FlowsepError, match="not readable as JSON"):
        speed.find_benches(tmp_path)
    with pytest.raises(SystemExit):
        main(["--only", "organ"])
    assert "unknown topic 'organ'" in capsys.readouterr().err


def test_pictures_of_the_bench():
    frame = pd.DataFrame({"name": ["a", "b"], "value": [2.0, 3.0], "low": [1.5, 3.0], "high": [2.5, 4.0]})
    figure = show.ranges(frame.assign(target=2.0), label="Ratio")
    assert figure.axes[0].get_xlabel() == "Ratio" and figure.axes[0].get_xscale() == "log"
    assert [text.get_text() for text in figure.axes[0].get_yticklabels()] == ["a", "b"]
    points = pd.DataFrame(
        {"intensity": [2.0, 50.0], "rate": [30.0, 60.0], "layer": ["x", "y"], "direction": "forwards"}
    )
    roof = show.roofline(points.assign(direction="forwards"), copy=10.0, product=100.0).axes[0].lines[0]
    assert max(roof.get_ydata()) == 100.0 and min(roof.get_ydata()) == pytest.approx(5.0)


def test_a_prior_of_the_paper_has_the_counted_weights():
    """The shapes that are counted are those of the network's convolutions."""
    prior = Prior(MODEL, FeatureConfig(), "x")
    held = sum(m.weight.numel() for m in prior.modules() if isinstance(m, torch.nn.Conv1d))
    assert held == sum(x.count * x.inputs * x.outputs * x.kernel for x in floor.convolutions(MODEL))
