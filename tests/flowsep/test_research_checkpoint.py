"""Parity with the outputs of the paper's own code, and refusal of checkpoints that do not fit."""

import json
import os
import shutil
import struct
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from reference.checkpoints import research_checkpoint

from flowsep import FlowsepError, load_prior
from flowsep.research_checkpoint import read_tensors

FIXTURE = Path(__file__).parents[1] / "fixtures" / "instglow_small"


@pytest.fixture
def folder(tmp_path):
    copy = tmp_path / "vocals"
    shutil.copytree(FIXTURE, copy)
    return copy


def close(found, expected):
    scale = np.abs(expected).max()
    np.testing.assert_allclose(found.detach().numpy() / scale, expected / scale, atol=1e-5, rtol=0)


def test_parity_with_the_research_code():
    prior = load_prior(FIXTURE)
    expected = np.load(FIXTURE / "expected.npz")
    spectrogram = torch.from_numpy(expected["spec"])
    z, logdet = prior.encode(spectrogram)
    close(z, expected["z"])
    close(logdet, expected["logdet"])
    close(prior.nll(spectrogram), expected["nll"])
    magnitude, logdet = prior.decode(torch.from_numpy(expected["latent"]))
    close(magnitude, expected["generated"])
    close(logdet, expected["logdet_inverse"])


def test_a_converted_prior_is_the_same_prior(tmp_path):
    prior = load_prior(FIXTURE, source="vocals")
    prior.save(tmp_path / "vocals.safetensors")
    again = load_prior(tmp_path / "vocals.safetensors")
    x = torch.rand(1, 514, 8)
    assert torch.equal(prior.log_prob(x), again.log_prob(x))
    assert again.provenance["iteration"] > 0


def test_the_newest_epoch_is_taken_unless_one_is_named(folder):
    shutil.copy(folder / "G_1000.pth", folder / "G_999.pth")
    assert load_prior(folder).provenance["file"] == "G_1000.pth"
    assert load_prior(folder, epoch=999).provenance["file"] == "G_999.pth"
    with pytest.raises(FlowsepError, match="no epoch 5; epochs there: 999, 1000"):
        load_prior(folder, epoch=5)
    shutil.copy(folder / "G_1000.pth", folder / "G_01000.pth")
    with pytest.raises(FlowsepError, match="same epoch"):
        load_prior(folder)


def change_state(folder, change):
    content = torch.load(folder / "G_1000.pth", weights_only=True)
    content["model"] = change(content["model"])
    torch.save(content, folder / "G_1000.pth")


NUMBERS = [
    np.power(0.3, 2) * 1e-4, np.float32(1e-4), np.float16(0.5), np.int64(-7),
    np.int32(12), np.uint8(200), np.bool_(True),
]  # fmt: skip


def resumed(folder, number):
    """What the research code's training saves after it was resumed: its learning rate is a number of numpy."""
    content = torch.load(folder / "G_1000.pth", weights_only=True)
    optimizer = torch.optim.Adam([torch.nn.Parameter(torch.zeros(3))])
    optimizer.param_groups[0]["lr"] = number
    content |= {"iteration": np.int64(500), "optimizer": optimizer.state_dict(), "learning_rate": [number, number]}
    return content


@pytest.mark.parametrize("number", NUMBERS, ids=lambda number: number.dtype.str)
def test_numbers_of_numpy_are_read_as_plain_ones(folder, number):
    torch.save(resumed(folder, number), folder / "G_1000.pth")
    content = read_tensors(folder / "G_1000.pth")
    read = content["optimizer"]["param_groups"][0]["lr"]
    assert read == number and type(read) is type(number.item()) and content["learning_rate"] == [number, number]
    x = torch.rand(1, 514, 8)
    torch.testing.assert_close(load_prior(folder).nll(x), load_prior(FIXTURE).nll(x))
    assert load_prior(folder).provenance["iteration"] == 500


@pytest.mark.parametrize("spelling", ["numpy.core.multiarray", "numpy._core.multiarray"])
def test_numbers_of_numpy_1_and_2_are_read(folder, spelling, monkeypatch):
    """Each names the module of its own function; a pickler asks that module whether it is so."""
    monkeypatch.setitem(sys.modules, spelling, np._core.multiarray)
    monkeypatch.setattr(np._core.multiarray.scalar, "__module__", spelling, raising=False)
    torch.save(resumed(folder, np.float64(1e-4)), folder / "G_1000.pth")
    assert read_tensors(folder / "G_1000.pth")["learning_rate"] == [1e-4, 1e-4]


class Calls:
    """A pickle of it calls something when it is read."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def dtype_of(code, state=None):
    """A pickled numpy.dtype, with a state of its own choosing."""
    call = Calls(np.dtype, code, False, True)
    call.call += (state,) if state else ()
    return call


SCALAR = np.float64(0).__reduce__()[0]


def test_a_number_may_come_from_a_machine_of_another_order_of_bytes(folder):
    number = Calls(SCALAR, dtype_of("f8", (3, ">", None, None, None, -1, -1, 0)), struct.pack(">d", 1e-4))
    torch.save(torch.load(folder / "G_1000.pth", weights_only=True) | {"learning_rate": number}, folder / "G_1000.pth")
    assert read_tensors(folder / "G_1000.pth")["learning_rate"] == 1e-4


FORGED = {
    "a command": Calls(os.system, "touch canary"),
    "numpy's own way to a command": Calls(np.load, "canary", None, True),
    "another class": Fraction(1, 3),
    "an array": np.zeros(3),
    "a text of numpy": np.str_("abc"),
    "a time": np.datetime64("2022-01-01"),
    "an object as a number": Calls(SCALAR, dtype_of("O"), b"12345678"),
    "two gigabytes of nothing": Calls(SCALAR, dtype_of("V2000000000")),
    "no bytes": Calls(SCALAR, dtype_of("f8")),
    "too many bytes": Calls(SCALAR, dtype_of("f8"), bytes(16)),
    "flags of an object": Calls(SCALAR, dtype_of("f8", (3, "O,", None, None, None, -1, -1, 63)), bytes(8)),
}


@pytest.mark.parametrize("what", FORGED)
@pytest.mark.parametrize("place", ["optimizer", "learning_rate"])
def test_anything_else_is_refused_and_nothing_is_run(folder, what, place, monkeypatch):
    monkeypatch.chdir(folder)
    content = torch.load("G_1000.pth", weights_only=True)
    content[place] = {"state": {0: {"step": FORGED[what]}}} if place == "optimizer" else [FORGED[what]]
    torch.save(content, "G_1000.pth")
    with pytest.raises(FlowsepError, match=r"G_1000\.pth: not a whole checkpoint of tensors; nothing was run"):
        load_prior(folder)
    assert not Path("canary").exists()


def conditioned(folder, speakers=None, section="data", prefix="", **more):
    """A checkpoint with `gin_channels`, whose condition nobody gives, and the names of the weights for that."""
    research_checkpoint(folder, 3, gin_channels=5)
    settings = json.loads((folder / "config.json").read_text())
    if speakers is not None:
        (settings if section == "top" else settings[section])["n_speakers"] = speakers
    (folder / "config.json").write_text(json.dumps(settings))
    content = torch.load(folder / "G_1.pth", weights_only=True)
    unused = {}
    for step in range(2):
        name = f"decoder.flows.{3 * step + 2}.wn.cond_layer"
        shapes = {"bias": (16,), "weight_g": (16, 1, 1), "weight_v": (16, 5, 1)}
        unused |= {f"{name}.{part}": torch.randn(shape) for part, shape in shapes.items()}
    content["model"] = {prefix + name: value for name, value in (content["model"] | unused | more).items()}
    torch.save(content, folder / "G_1.pth")
    return list(unused)


@pytest.mark.parametrize("section", ["data", "model", "top"])
@pytest.mark.parametrize("speakers", [None, 0, 1])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_weights_of_a_condition_that_is_never_given_are_left_out(tmp_path, section, speakers, prefix, capsys):
    unused = conditioned(tmp_path / "harp", speakers, section, prefix)
    prior, plain = load_prior(tmp_path / "harp"), load_prior(research_checkpoint(tmp_path / "plain", 3))
    z = torch.randn(1, 6, 8)
    torch.testing.assert_close(prior.decode(z), plain.decode(z))
    assert prior.provenance["unused"] == unused and "unused" not in plain.provenance
    prior.save(tmp_path / "harp.safetensors")
    assert load_prior(tmp_path / "harp.safetensors").provenance["unused"] == unused
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("section", ["data", "model", "top"])
@pytest.mark.parametrize("speakers", [2, 109, "two", [1]])
def test_several_speakers_are_refused(tmp_path, section, speakers):
    conditioned(tmp_path / "harp", speakers, section)
    with pytest.raises(FlowsepError, match=r"config\.json: n_speakers = .*: models of several speakers"):
        load_prior(tmp_path / "harp")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("emb_g.weight", r"'emb_g\.weight' tells speakers apart"),
        ("encoder.cond_layer.bias", r"surplus weight 'encoder\.cond_layer\.bias'"),
        ("decoder.flows.2.wn.cond_layer.extra", r"surplus weight 'decoder\.flows\.2\.wn\.cond_layer\.extra'"),
        ("decoder.flows.8.wn.cond_layer.bias", r"surplus weight 'decoder\.flows\.8\.wn\.cond_layer\.bias'"),
        ("decoder.flows.2.cond.weight", r"surplus weight 'decoder\.flows\.2\.cond\.weight'"),
    ],
)
def test_other_weights_of_a_condition_are_refused(tmp_path, name, message):
    conditioned(tmp_path / "harp", **{name: torch.zeros(16)})
    with pytest.raises(FlowsepError, match=message):
        load_prior(tmp_path / "harp")


def test_half_precision_and_data_parallel_checkpoints_are_accepted(folder):
    change_state(folder, lambda state: {f"module.{name}": value.half() for name, value in state.items()})
    x = torch.rand(1, 514, 8)
    torch.testing.assert_close(load_prior(folder).nll(x), load_prior(FIXTURE).nll(x), atol=1e-2, rtol=0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda s: {k: v for k, v in s.items() if k != "decoder.flows.0.logs"},
            r"missing weight 'decoder\.flows\.0\.logs'",
        ),
        (lambda s: s | {"emb.weight": torch.zeros(2)}, r"surplus weight 'emb\.weight'"),
        (lambda s: s | {"decoder.flows.99.logs": torch.zeros(1, 2, 1)}, r"surplus weight 'decoder\.flows\.99\.logs'"),
        (
            lambda s: s | {"decoder.flows.1.weight": torch.eye(2)},
            r"misshaped weight 'decoder\.flows\.1\.weight' is \(2, 2\), expected \(4, 4\)",
        ),
        (
            lambda s: s | {"decoder.flows.2.wn.cond_layer.bias": torch.zeros(2)},
            r"surplus weight 'decoder\.flows\.2\.wn\.cond_layer\.bias'",  # its settings have no gin_channels
        ),
        (
            lambda s: {k: v for k, v in s.items() if k != "decoder.flows.2.start.weight_g"},
            r"missing weight 'decoder\.flows\.2\.start\.weight_g'",
        ),
    ],
)
def test_every_weight_is_accounted_for(folder, change, message):
    change_state(folder, change)
    with pytest.raises(FlowsepError, match=message):
        load_prior(folder)


def change_config(folder, change):
    settings = json.loads((folder / "config.json").read_text())
    change(settings)
    (folder / "config.json").write_text(json.dumps(settings))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["data"].update(n_speakers=2), "n_speakers = 2: models of several speakers"),
        (lambda c: c["model"].pop("n_sqz"), "key 'n_sqz' is missing"),
        (lambda c: c["model"].update(n_blocks_dec=-1), "steps: .*found -1"),
        (lambda c: c.pop("data"), "section 'data' is missing"),
    ],
)
def test_bad_settings_name_the_key(folder, change, message):
    change_config(folder, change)
    with pytest.raises(FlowsepError, match=message):
        load_prior(folder)


def test_missing_and_damaged_files_are_named(folder):
    path = folder / "G_1000.pth"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(FlowsepError, match=r"G_1000\.pth: not a whole checkpoint"):
        load_prior(folder)
    path.unlink()
    with pytest.raises(FlowsepError, match=r"no G_<epoch>\.pth"):
        load_prior(folder)
    (folder / "config.json").unlink()
    with pytest.raises(FlowsepError, match=r"config\.json: missing"):
        load_prior(folder)
