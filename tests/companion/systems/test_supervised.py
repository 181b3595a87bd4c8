"""The four discriminative networks and their trainer, on two tones: they learn, resume, and fit any length."""

import math
import re
import sys
from itertools import groupby
from types import ModuleType, SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import soxr
import torch
from helpers import write_hq_tree

from companion import Profile, load_dataset
from companion.data import segments as solo
from companion.data.recordings import Recording
from companion.data.segments import whole_stems
from companion.data.tracks import Track
from companion.profile import DataConfig, PiecesConfig
from companion.scores.metrics import sdr
from companion.systems import SYSTEMS, load_system
from companion.systems.mixtures import MixtureSampler, validation_batches
from companion.systems.open_unmix import umx
from companion.systems.segments import in_segments
from companion.systems.wave_u_net import WaveUNetwork, bottom_for_output, lengths
from flowsep import FlowsepError, train
from flowsep.prior import parameters
from flowsep.weights import read_safetensors, save_safetensors

RATE, PAIR, FOUR = 8000, ("low", "high"), ("vocals", "bass", "drums", "other")
SHARED = {"sample_rate": RATE, "batch": 4, "crop_seconds": 0.125, "lr": 0.01, "steps": 40}
SMALL = {
    "demucs_v2": {"width": 16, "depth": 2},
    "conv_tasnet": {"filters": 32, "bottleneck": 16, "hidden": 32, "blocks": 3, "repeats": 1},
    # after 40 steps it has learnt 3 to 14 dB, by how the machine rounds; after 80 never less than 12
    "open_unmix": {"hidden": 32, "layers": 1, "n_fft": 256, "hop": 64, "crop_seconds": 0.25, "steps": 80},
    "wave_u_net": {"levels": 3, "filters": 8, "lr": 0.005, "steps": 60},
}
TINY = SHARED | {"filters": 8, "bottleneck": 4, "hidden": 8, "blocks": 2, "repeats": 1, "steps": 12, "batch": 2}
PROFILE = Profile(name="tiny", training={"validate_every": 4, "schedule": "cosine", "device": "cpu"})
BAND = SimpleNamespace(name="band", hash="abc")


def song(seed, seconds=2.0, rate=RATE):
    """Two pulsating stereo tones, a low one and a high one."""
    rng, time_axis = np.random.default_rng(seed), np.arange(round(seconds * rate)) / rate
    stems = {}
    for name, pitch in (("low", 300), ("high", 1500)):
        swell = 0.5 + 0.5 * np.sin(2 * np.pi * rng.uniform(1, 3) * time_axis + rng.uniform(0, 6))
        tone = 0.2 * swell * np.sin(2 * np.pi * pitch * rng.uniform(0.9, 1.1) * time_axis)
        stems[name] = np.outer(rng.uniform(0.5, 1, 2), tone).astype(np.float32)
    return stems


SONGS = {"train": [song(k) for k in range(3)], "valid": [song(9)]}


@pytest.fixture(autouse=True)
def songs(monkeypatch):
    monkeypatch.setattr(solo, "whole_stems", stems_of_songs)


def stems_of_songs(dataset, subset, source, sample_rate, channels):
    assert sample_rate == RATE
    return [one[source][:channels] for one in SONGS[subset]]


def small(name, **changes):
    return load_system(name, SHARED | SMALL[name] | changes, sources=PAIR)


# --- the networks ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SMALL)
def test_a_few_dozen_steps_tell_two_tones_apart(name, tmp_path):
    system = small(name)
    system.fit(BAND, PROFILE, tmp_path)
    stems = song(50)
    mixture = sum(stems.values())
    found = load_system(name, {"sample_rate": RATE}, sources=PAIR, folder=tmp_path).separate(mixture, RATE)
    for source, reference in stems.items():
        assert found[source].dtype == np.float32 and found[source].shape == mixture.shape
        assert sdr(reference, found[source]) > sdr(reference, mixture / 2) + 5
    if name == "wave_u_net":  # its last source is the difference
        np.testing.assert_allclose(sum(found.values()), mixture, atol=1e-5)
    header, _ = read_safetensors(tmp_path / f"{name}.safetensors")
    told = header["provenance"]
    assert told["parameters"] == parameters(system.build())
    assert header["sources"] == list(PAIR) and header["options"]["sample_rate"] == RATE
    curve = pd.read_csv(tmp_path / "training" / "loss.csv")
    assert list(curve.columns) == ["step", "split", "value", "seconds"]
    valid = curve[curve.split == "valid"].set_index("step").value
    assert told["step"] == valid.idxmin() > 0 and told["valid_loss"] == pytest.approx(valid.min())
    seconds = pytest.approx(curve.seconds.iloc[-1], abs=0.06)
    costs = {"parameters": told["parameters"], "training_seconds": seconds}
    costs["training_memory_mib"] = pytest.approx(told["training_memory_mib"])
    assert told["training_memory_mib"] > 50
    assert system.costs() == load_system(name, sources=PAIR, folder=tmp_path).costs() == costs
    assert system.curves() == {"": tmp_path / "training" / "loss.csv"} and "error" in system.curve_label


@pytest.mark.parametrize("name", SMALL)
def test_any_length_number_of_channels_and_rate(name):
    for channels in (1, 2):
        system = small(name, channels=channels, segment_seconds=0.2, overlap_seconds=0.05)
        system.network = system.build().eval()
        for samples, heard, rate in (
            (1, 1, RATE),
            (777, 2, RATE),
            (2 * RATE + 1, 2, RATE),
            (3001, 1, 11_025),
            (1, 2, 44_100),
        ):
            mixture = np.random.default_rng(0).standard_normal((heard, samples)).astype(np.float32)
            found = system.separate(mixture, rate)
            assert list(found) == list(PAIR)
            assert all(x.shape == mixture.shape and np.isfinite(x).all() for x in found.values())
        silent = system.separate(np.zeros((2, 100), np.float32), RATE)
        assert not any(x.any() for x in silent.values())


def test_a_network_of_one_channel_hears_two_apart():
    system = small("conv_tasnet", channels=1)
    system.network = system.build().eval()
    mixture = np.random.default_rng(1).standard_normal((2, 900)).astype(np.float32)
    together, left = system.separate(mixture, RATE), system.separate(mixture[:1], RATE)
    np.testing.assert_allclose(together["low"][:1], left["low"], atol=1e-5)


def test_demucs_has_the_layers_of_version_2_and_no_others():
    """Counted by hand: six levels of convolutions, two layers of bidirectional LSTM and one linear layer."""
    expected, before, width = 0, 2, 64
    for level in range(6):
        out = before if level else 4 * 2
        expected += (8 * before + 1) * width + (width + 1) * 2 * width  # down, and the gate
        expected += (3 * width + 1) * 2 * width + 8 * width * out + out  # the gate, and up
        before, width = width, 2 * width
    expected += 2 * 4 * before * (before + before + 2) + 2 * 4 * before * (2 * before + before + 2)
    expected += (2 * before + 1) * before
    with torch.device("meta"):
        assert parameters(load_system("demucs_v2", sources=FOUR).build()) == expected == 265_679_496


def test_conv_tasnet_has_the_published_sizes():
    """Défossez et al. 2019, who have no biases where asteroid has; Luo, Mesgarani 2019: 5.1 M for two speakers."""
    filters, taps, bottleneck, hidden, blocks = 256, 20, 256, 512, 10 * 4
    block = 2 * bottleneck * hidden + 3 * hidden + 2 * 2 * hidden + 2  # the last: slopes of the rectifiers
    reference = 2 * 2 * filters * taps + 2 * filters + filters * bottleneck + blocks * block + 4 * filters * bottleneck
    biases = bottleneck + blocks * (2 * hidden + bottleneck) + 4 * filters + 1  # and one more slope
    assert parameters(load_system("conv_tasnet", sources=FOUR).build()) == reference + biases
    speech = {"channels": 1, "filters": 512, "kernel": 16, "bottleneck": 128, "skip": 128, "blocks": 8, "repeats": 3}
    assert round(parameters(load_system("conv_tasnet", speech, sources=PAIR).build()) / 1e6, 1) == 5.1


def test_open_unmix_is_as_large_as_umxhq():
    million = parameters(load_system("open_unmix", sources=FOUR).build()) / 4e6
    assert round(million, 1) == 8.9  # a source: the published weights are 34 MB of float32 each


def test_wave_u_net_has_the_lengths_of_the_paper():
    assert lengths(9, 12) == (147_443, 16_389)  # Stoller, Ewert, Dixon 2018
    system = load_system("wave_u_net", sources=PAIR)
    assert system.crop == 147_443 and 2 * system.context == 147_443 - 16_389
    for levels in (1, 2, 5):
        network = WaveUNetwork(3, 2, levels, 2)
        for bottom in (5, 6, 11):
            given, found = lengths(bottom, levels)
            mixture = torch.randn(2, 2, given)
            estimates = network(mixture)
            assert estimates.shape == (2, 3, 2, found)
            middle = mixture[..., (given - found) // 2 :][..., :found]
            torch.testing.assert_close(estimates.sum(dim=1), middle)
            assert bottom_for_output(found, levels) == bottom and bottom_for_output(found + 1, levels) == bottom + 1


def test_wave_u_net_needs_all_of_its_input():
    """The shortest output hangs on the first and on the last sample of its input."""
    given, _ = lengths(5, 2)
    network = WaveUNetwork(2, 1, 2, 3).double()
    mixture = torch.randn(1, 1, given, dtype=torch.float64, requires_grad=True)
    network(mixture)[0, 0, 0].sum().backward()
    touched = mixture.grad[0, 0].nonzero().flatten()
    assert touched.min() == 0 and touched.max() == given - 1


def test_wave_u_net_in_segments_is_itself_in_one_piece(monkeypatch):
    """With its context each segment is estimated as in the song, where both begin on the same grid of decimation."""
    whole, parts = small("wave_u_net"), small("wave_u_net", segment_seconds=1007 / RATE, overlap_seconds=0)
    whole.network = parts.network = whole.build().eval()
    whole.level = parts.level = None  # segments would not all be scaled alike
    assert whole.context % 2**3 == 1007 % 2**3
    mixture = sum(song(3).values())[:, :2014]
    one, two = whole.separate(mixture, RATE), parts.separate(mixture, RATE)
    # convolutions of another length may add up in another order, which gives 1e-6 on some processors
    np.testing.assert_allclose(one["low"], two["low"], atol=1e-5)
    monkeypatch.setattr(type(parts), "context", whole.context // 2)
    assert np.abs(parts.separate(mixture, RATE)["low"] - one["low"]).max() > 1e-4


def test_open_unmix_needs_no_torchaudio(monkeypatch):
    for module in [m for m in sys.modules if m.split(".")[0] in ("openunmix", "torchaudio")]:
        monkeypatch.delitem(sys.modules, module)
    assert umx("model").OpenUnmix.__name__ == "OpenUnmix"
    assert "torchaudio" not in sys.modules  # nobody else takes the empty one for the real one
    real = ModuleType("torchaudio")
    monkeypatch.setitem(sys.modules, "torchaudio", real)
    umx("utils")
    assert sys.modules["torchaudio"] is real


def test_open_unmix_is_the_librarys_separator():
    """Our build within their `Separator`, untrained, with their own STFT."""
    system = small("open_unmix", wiener=0)
    system.network = system.build().eval()
    audio = torch.randn(1, 2, 4000)
    found = system.estimate(system.network, audio)
    theirs = (
        umx("model")
        .Separator({str(k): model for k, model in enumerate(system.network.models)}, niter=0, n_fft=256, n_hop=64)
        .eval()
    )
    torch.testing.assert_close(found, theirs(audio))
    magnitude = theirs.complexnorm(theirs.stft(audio))
    torch.testing.assert_close(system._magnitudes(audio), magnitude, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["demucs_v2", "wave_u_net"])
def test_estimates_of_scaled_networks_are_as_loud_as_their_input(name):
    system = small(name)
    system.network = system.build().eval()
    mixture = sum(song(3).values())[:, :2014]
    one, loud = system.separate(mixture, RATE), system.separate(10 * mixture, RATE)
    for source in PAIR:
        np.testing.assert_allclose(10 * one[source], loud[source], atol=1e-4, rtol=1e-4)
    assert torch.equal(small("conv_tasnet").gain(torch.ones(2, 1, 5)), torch.ones(2, 1, 1))  # is not scaled


# --- what they learn from --------------------------------------------------------------------------------------------


def numbered(songs=3, samples=50):
    """Stems whose values say which source, song and moment they are: 1000 source + 100 song + moment / 1000."""
    moments = np.arange(samples) / 1000
    stems = [[np.stack([1000 * s + 100 * k + moments] * 2) for k in range(songs)] for s in (1, 2)]
    for of_source in stems:
        for one in of_source:
            one[1] += 0.5  # the right channel
    return stems


def test_unshuffled_crops_are_of_one_song_and_moment():
    batch = MixtureSampler(numbered(), 8, batch=50, song_share=1.0, gains=(0.5, 2.0)).batch(0)
    assert batch.shape == (50, 2, 2, 8) and batch.dtype == np.float32
    np.testing.assert_allclose(batch[:, 1] - batch[:, 0], 1000, atol=1e-3)
    np.testing.assert_allclose(batch[:, :, 1] - batch[:, :, 0], 0.5, atol=1e-3)
    assert len(np.unique(batch[:, 0, 0, 0] // 100)) == 3


def test_shuffled_crops_mix_songs_gains_and_channels():
    sampler = MixtureSampler(numbered(), 8, batch=200, seed=3)
    batch = sampler.batch(7)
    np.testing.assert_array_equal(batch, sampler.batch(7))
    assert (batch != sampler.batch(8)).any()
    assert set((batch[:, 0, 0, 0] // 100).astype(int)) == {10, 11, 12}
    aligned = np.abs(batch[:, 1, 0, 0] - batch[:, 0, 0, 0] - 1000) < 0.9
    assert aligned.mean() < 0.5  # a third of the pairs happens to be of one song
    swapped = batch[:, :, 1, 0] < batch[:, :, 0, 0]
    assert 0.4 < swapped.mean() < 0.6
    gained = MixtureSampler(numbered(), 8, batch=200, gains=(0.25, 1.25)).batch(0)[:, 0, 0, 0] / 1100
    assert gained.min() < 0.4 and gained.max() > 1.1


def test_songs_without_a_source_are_silent_and_never_drawn_for_it():
    stems = numbered()
    stems[1][0] = stems[1][0][:, :0]
    alone = MixtureSampler(stems, 8, batch=60).batch(0)
    assert set((alone[:, 1, 0, 0] // 100).astype(int)) == {21, 22}
    songs = MixtureSampler(stems, 8, batch=60, song_share=1.0).batch(0)
    first = songs[:, 0, 0, 0] < 1100
    assert first.any() and not songs[first, 1].any() and songs[~first, 1].all()
    short = MixtureSampler(stems, 80, batch=4).batch(0)
    assert short[..., :50].all() and not short[..., 50:].any()


def test_validation_covers_the_held_out_songs_and_stays_the_same():
    stems = numbered(songs=2, samples=50)
    batches = list(validation_batches(stems, 16, 4, "songs", 0))
    assert [len(batch) for batch in batches] == [4, 2]
    crops = np.concatenate(batches)
    np.testing.assert_allclose(crops[:, 0, 0, 0], [1000, 1000.016, 1000.032, 1100, 1100.016, 1100.032], atol=1e-3)
    random = [np.concatenate(list(validation_batches(stems, 16, 4, "random", 0))) for _ in range(2)]
    np.testing.assert_array_equal(*random)
    assert (np.abs(random[0][:, 1, 0, 0] - random[0][:, 0, 0, 0] - 1000) > 1e-4).any()


def test_supervision_follows_the_mixes():
    for name in SMALL:
        assert load_system(name, sources=PAIR).supervision == "mixtures"
        assert load_system(name, {"mixes": "random"}, sources=PAIR).supervision == "random mixes"
    assert load_system("open_unmix_random", sources=PAIR).supervision == "random mixes"


def test_random_mixes_never_sum_up_a_song(monkeypatch, tmp_path):
    """Whatever the share of unshuffled songs, the sampler gets none of it."""
    made = []
    original = MixtureSampler.__init__
    monkeypatch.setattr(MixtureSampler, "__init__", lambda self, *a, **k: made.append(k) or original(self, *a, **k))
    load_system("conv_tasnet", TINY | {"mixes": "random", "song_share": 1.0}, sources=PAIR).fit(BAND, PROFILE, tmp_path)
    assert len(made) > 1 and all(k.get("song_share", 0) == 0 for k in made)


def test_whole_stems_lie_side_by_side_and_songs_are_held_out(tmp_path, monkeypatch):
    monkeypatch.setenv("FLOWSEP_DATA", str(tmp_path / "cache"))
    root = write_hq_tree(tmp_path / "songs", train=4, test=1, seconds=0.3)
    config = DataConfig(kind="musdb18hq", root=str(root), valid_tracks=1)
    dataset = load_dataset(config, 0)
    lacking = dataset.subset("train")[1]
    (root / "train" / lacking.name / "vocals.wav").unlink()
    dataset = load_dataset(config, 0)
    vocals, bass = (whole_stems(dataset, "train", source, RATE) for source in ("vocals", "bass"))
    assert [x.shape for x in bass] == [(2, 2400)] * 3 and [x.shape[1] for x in vocals] == [2400, 0, 2400]
    assert all(isinstance(x, Recording) and x[:].dtype == np.float32 for x in bass)
    for track, stem in zip(dataset.subset("train"), bass, strict=True):
        np.testing.assert_array_equal(stem, soxr.resample(track.stem("bass").T, 44_100, RATE, "HQ").T)
    np.testing.assert_allclose(whole_stems(dataset, "train", "bass", RATE, 1)[0][0], bass[0][:].mean(axis=0), atol=1e-6)
    in_pieces = load_dataset(config.model_copy(update={"pieces": PiecesConfig(seconds=(0.1, 0.1), shortest=0.1)}), 0)
    for subset in ("train", "valid"):
        pairs = zip(*(whole_stems(one, subset, "bass", RATE) for one in (dataset, in_pieces)), strict=True)
        assert all(np.array_equal(*pair) for pair in pairs)
    with pytest.raises(FlowsepError, match="no train track has the source 'kazoo'"):
        whole_stems(dataset, "train", "kazoo", RATE)


SOLO = {  # sizes with which each source-only system is fitted in a second
    "nmf": {"components": 2, "frames": 20, "iterations": 2},
    "instglow": {},
    "flowsep": {},
    "gan_prior": {"prior": {"depth": 2, "channels": 2, "latent": 4, "steps": 1, "critic_steps": 1, "batch": 2}},
}


@pytest.mark.parametrize("name", [s for s in SYSTEMS if load_system(s, sources=FOUR).supervision == "solo"])
def test_source_only_systems_read_one_source_after_the_other_and_no_mixture(name, tmp_path, monkeypatch):
    assert name in SOLO, f"say here with which options {name} is fitted in a second"
    monkeypatch.setenv("FLOWSEP_DATA", str(tmp_path / "cache"))
    monkeypatch.setattr(Track, "mixture", lambda self: pytest.fail("a mixture was read"))
    monkeypatch.setattr(solo, "whole_stems", lambda *_: pytest.fail("stems were read side by side"))
    read, original = [], Track._read
    monkeypatch.setattr(Track, "_read", lambda self, source: read.append(source) or original(self, source))
    root = write_hq_tree(tmp_path / "songs", train=3, test=1, seconds=1.0)
    training = {"steps": 2, "batch": 2, "crop_seconds": 0.3, "validate_every": 1, "lr": 1e-3, "device": "cpu"}
    where = {"kind": "musdb18hq", "root": str(root), "valid_tracks": 1}
    profile = Profile(name="tiny", data=where, model={"steps": 1, "hidden": 8, "layers": 1}, training=training)
    system = load_system(name, SOLO[name], sources=FOUR)
    system.fit(load_dataset(profile.data, profile.seed), profile, tmp_path / "learnt")
    assert [source for source, _ in groupby(read)] == list(FOUR)  # "mixture" is none of them


# --- the trainer -----------------------------------------------------------------------------------------------------


def fit_tiny(folder, **changes):
    system = load_system("conv_tasnet", TINY | changes, sources=PAIR)
    system.fit(BAND, PROFILE, folder)
    return read_safetensors(folder / "conv_tasnet.safetensors")


def interrupt(monkeypatch, at):
    """Let the sampler stop the training at a step, or never; returns the list of the steps it gave."""
    steps, original = [], MixtureSampler.batch

    def batch(self, step):
        if step == at:
            raise KeyboardInterrupt
        steps.append(step)
        return original(self, step)

    monkeypatch.setattr(MixtureSampler, "batch", batch)
    return steps


def test_an_interrupted_training_ends_with_the_same_weights(tmp_path, monkeypatch):
    header, whole = fit_tiny(tmp_path / "whole")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        interrupt(patch, at=6)
        fit_tiny(tmp_path / "stopped")
    assert not (tmp_path / "stopped" / "conv_tasnet.safetensors").exists()  # nothing looks like a network yet
    with monkeypatch.context() as patch:
        steps = interrupt(patch, at=None)
        again, resumed = fit_tiny(tmp_path / "stopped")
        assert steps == list(range(4, 12))  # from the last validation on
    assert list(whole) == list(resumed) and all(torch.equal(whole[name], resumed[name]) for name in whole)
    for one in (header, again):  # what was measured differs
        assert one["provenance"].pop("training_seconds") >= 0 and one["provenance"].pop("training_memory_mib") > 0
    assert header == again
    curves = [pd.read_csv(tmp_path / run / "training" / "loss.csv") for run in ("whole", "stopped")]
    pd.testing.assert_frame_equal(*(curve.drop(columns="seconds") for curve in curves))


def test_a_finished_training_is_not_run_again(tmp_path, monkeypatch):
    fit_tiny(tmp_path)
    content = (tmp_path / "conv_tasnet.safetensors").read_bytes()
    steps = interrupt(monkeypatch, at=None)
    monkeypatch.setattr(train, "peak_memory", lambda: 1e9)  # of a process that trains nothing
    fit_tiny(tmp_path)
    assert not steps and (tmp_path / "conv_tasnet.safetensors").read_bytes() == content


def test_other_options_or_songs_begin_another_training(tmp_path, capsys):
    fit_tiny(tmp_path)
    fit_tiny(tmp_path, segment_seconds=3.0)  # says nothing of the training
    assert "begins anew" not in capsys.readouterr().out
    fit_tiny(tmp_path, hidden=4)
    assert re.search(r"training: begins anew \(options\.hidden was \d+, now 4\); .*before", capsys.readouterr().out)
    dataset = SimpleNamespace(name="band", hash="xyz")
    load_system("conv_tasnet", TINY | {"hidden": 4}, sources=PAIR).fit(dataset, PROFILE, tmp_path)
    assert "(data was 'abc', now 'xyz')" in capsys.readouterr().out


def test_a_learning_rate_that_is_too_high_is_named(tmp_path):
    with pytest.raises(FlowsepError, match=r"conv_tasnet: training .*lower `systems\.conv_tasnet\.lr`"):
        fit_tiny(tmp_path, lr=1e12)


def test_files_that_are_no_network(tmp_path):
    header, tensors = fit_tiny(tmp_path)
    path, mixture = tmp_path / "conv_tasnet.safetensors", np.ones((2, 100), np.float32)

    def separate(sources=PAIR, folder=tmp_path):
        return load_system("conv_tasnet", sources=sources, folder=folder).separate(mixture, RATE)

    assert separate()["low"].shape == mixture.shape  # with the options that its header says
    with pytest.raises(FlowsepError, match=r"separates low, high, not low; fit conv_tasnet anew"):
        separate(("low",))
    with pytest.raises(FlowsepError, match="not fitted, and no folder"):
        separate(folder=None)
    with pytest.raises(FlowsepError, match=r"nowhere/conv_tasnet\.safetensors"):
        separate(folder=tmp_path / "nowhere")
    content = path.read_bytes()
    path.unlink()  # `tensors` lie in the file, mapped into memory
    path.write_bytes(content[:-50])
    with pytest.raises(FlowsepError, match=r"conv_tasnet\.safetensors: not a whole \.safetensors file"):
        separate()
    options = header["options"]
    for changes, message in (
        ({"system": "demucs_v2"}, "not a network of conv_tasnet"),
        ({"options": options | {"filters": 9}}, "misshaped weight"),
        ({"options": options | {"colour": 1}}, "damaged header"),
        ({"options": None}, "damaged header"),
    ):
        save_safetensors(path, tensors, header | changes)
        with pytest.raises(FlowsepError, match=message):
            separate()
    save_safetensors(path, {name: value * math.nan for name, value in tensors.items()}, header)
    with pytest.raises(FlowsepError, match="NaN"):
        separate()


@pytest.mark.parametrize(
    ("name", "package"), [("demucs_v2", "demucs"), ("conv_tasnet", "asteroid"), ("open_unmix", "openunmix")]
)
def test_a_missing_package_is_one_sentence(name, package, monkeypatch):
    for module in [module for module in sys.modules if module.split(".")[0] == package]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(FlowsepError, match=rf"{package} cannot be imported .*pip install flowsep\[baselines\]"):
        load_system(name, sources=PAIR).build()


# --- segments --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("samples", [1, 99, 100, 101, 150, 1000, 1003])
def test_segments_cover_a_song_once(samples):
    mixture, seen = torch.randn(1, 2, samples), []

    def same(part):
        seen.append(part.shape[-1])
        return torch.stack([part, -2 * part], dim=1)

    for context in (0, 30):
        seen.clear()
        found = in_segments(mixture, same, segment=100, overlap=20, context=context)
        torch.testing.assert_close(found, torch.stack([mixture, -2 * mixture], dim=1))
        assert max(seen) <= 100 + 2 * context
    assert len(seen) == max(1, math.ceil((samples - 20) / 80))
