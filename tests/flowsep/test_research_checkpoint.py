"""Parity with the outputs of the paper's own code, and refusal of checkpoints that do not fit."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from flowsep import FlowsepError, load_prior

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
            r"cond_layer\.bias' belongs to a conditional",
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
        (lambda c: c["model"].update(gin_channels=64), "gin_channels = 64: conditional"),
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
