"""Oracles and harmonic-percussive separation, on mixtures whose answers are known, and songs block by block."""

import subprocess
import sys

import norbert
import numpy as np
import pytest

from companion.scores.metrics import sdr
from companion.systems import hpss, load_system, oracle
from companion.systems.wiener_oracle import FLOOR, _frames_first, _place
from flowsep.files import FlowsepError

RATE = 44_100
PAIR = ("bass", "drums")


def panned_noise(places, seed=0, seconds=1.0):
    """Stationary noises, each on its place among the channels: they share every bin, so no mask tells them apart."""
    rng = np.random.default_rng(seed)
    mono = 0.1 * rng.standard_normal((len(PAIR), round(seconds * RATE)))
    return {s: np.outer(place, audio).astype(np.float32) for s, place, audio in zip(PAIR, places, mono, strict=True)}


def separated(name, stems):
    return load_system(name, sources=tuple(stems)).separate(sum(stems.values()), RATE, references=stems)


def test_two_places_are_solved_exactly_where_a_mask_cannot():
    stems = panned_noise([(1.0, 0.5), (0.5, 1.0)])
    filtered, masked = separated("multichannel_wiener", stems), separated("ideal_ratio_mask", stems)
    for source, reference in stems.items():
        assert sdr(reference, masked[source]) < 10
        assert sdr(reference, filtered[source]) > 60  # two channels, two unknowns
        assert filtered[source].shape == reference.shape and filtered[source].dtype == np.float32
    np.testing.assert_allclose(sum(filtered.values()), sum(stems.values()), atol=1e-5)


def test_hard_left_and_hard_right_are_taken_apart():
    stems = panned_noise([(1.0, 0.0), (0.0, 1.0)])
    found = separated("multichannel_wiener", stems)
    assert all(sdr(reference, found[source]) > 30 for source, reference in stems.items())


@pytest.mark.parametrize("channels", [1, 2])
def test_without_places_it_is_the_mask_of_powers(channels):
    """From one place the filter can only weigh powers: M_i = |S_i|^2 / sum_j |S_j|^2."""
    from companion.systems.oracle import HOP, N_FFT, spectrum_of
    from flowsep.spectrogram import istft

    stems = panned_noise([(1.0,) * channels] * 2)
    found = separated("multichannel_wiener", stems)
    powers = {source: spectrum_of(audio).abs() ** 2 for source, audio in stems.items()}
    mask = powers["bass"] / sum(powers.values())
    expected = istft(mask * spectrum_of(sum(stems.values())), RATE, N_FFT, HOP).numpy()
    assert sdr(expected, found["bass"]) > 50


def test_silence_and_a_source_that_never_plays_are_harmless():
    stems = panned_noise([(1.0, 0.3), (0.0, 0.0)])
    found = separated("multichannel_wiener", stems)
    assert sdr(stems["bass"], found["bass"]) > 60
    silent = {source: np.zeros((2, RATE), np.float32) for source in PAIR}
    assert not any(audio.any() for audio in separated("multichannel_wiener", silent).values())


def test_the_filter_names_what_is_missing(monkeypatch):
    stems = panned_noise([(1.0, 0.5), (0.5, 1.0)])
    system = load_system("multichannel_wiener", sources=PAIR)
    with pytest.raises(FlowsepError, match="multichannel_wiener: no reference of 'bass'"):
        system.separate(sum(stems.values()), RATE)
    monkeypatch.setitem(sys.modules, "norbert", None)  # as if it were not installed
    with pytest.raises(FlowsepError, match=r"norbert cannot be imported .*; pip install flowsep\[baselines\]"):
        system.separate(sum(stems.values()), RATE, references=stems)


def tone(hertz, seconds=4.0):
    time = np.arange(round(seconds * RATE)) / RATE
    return np.stack([0.2 * np.sin(2 * np.pi * hertz * time), 0.1 * np.sin(2 * np.pi * hertz * time)]).astype(np.float32)


def clicks(seconds=4.0):
    """Noise of 3 ms, twice a second."""
    click = np.random.default_rng(0).uniform(-1, 1, 3 * RATE // 1000)
    train = np.zeros((2, round(seconds * RATE)), np.float32)
    for start in range(RATE // 4, train.shape[1], RATE // 2):
        train[:, start : start + len(click)] = np.outer((1.0, 0.8), click)
    return train


def test_clicks_are_drums_and_tones_are_not():
    stems = {"drums": clicks(), "other": tone(440), "bass": tone(80)}
    mixture = sum(stems.values())
    found = load_system("hpss", sources=tuple(stems)).separate(mixture, RATE)
    for source, reference in stems.items():
        assert sdr(reference, found[source]) > 10, source
    np.testing.assert_allclose(sum(found.values()), mixture, atol=1e-5)


def test_tones_are_shared_alike_and_the_crossover_moves():
    mixture = tone(440)
    found = load_system("hpss", sources=("vocals", "bass", "drums", "other")).separate(mixture, RATE)
    np.testing.assert_allclose(found["vocals"], found["other"], atol=1e-7)
    assert sdr(mixture / 2, found["vocals"]) > 20 and np.abs(found["bass"]).max() < 0.01
    found = load_system("hpss", {"crossover_hz": 1000}, sources=("vocals", "bass", "drums")).separate(mixture, RATE)
    assert sdr(mixture, found["bass"]) > 20
    found = load_system("hpss", sources=PAIR).separate(mixture, RATE)  # nobody else plays tones
    assert sdr(mixture, found["bass"]) > 20
    found = load_system("hpss", sources=("drums", "other")).separate(tone(80), RATE)
    assert sdr(tone(80), found["other"]) > 20


def test_no_drums_no_hpss():
    with pytest.raises(FlowsepError, match="the sources are vocals, accompaniment; take it off"):
        load_system("hpss", sources=("vocals", "accompaniment"))


@pytest.mark.parametrize("samples", [3 * RATE, 256 * oracle.HOP, 256 * oracle.HOP + 1])  # the last block: one sample
@pytest.mark.parametrize("name", ["multichannel_wiener", "ideal_ratio_mask"])
def test_blocks_of_frames_give_the_filter_of_the_whole_song(name, samples, monkeypatch):
    stems = {s: audio[:, :samples] for s, audio in panned_noise([(1.0, 0.5), (0.5, 1.0)], seconds=3.0).items()}
    stems["bass"][:, RATE : 2 * RATE] = 0
    monkeypatch.setattr(oracle, "BLOCK", 512 * oracle.HOP)
    whole = separated(name, stems)
    monkeypatch.setattr(oracle, "BLOCK", 32 * oracle.HOP)
    parts = separated(name, stems)
    assert all(sdr(whole[source], parts[source]) > 100 for source in stems)


def test_blocks_of_frames_have_the_medians_of_the_whole_song(monkeypatch):
    from librosa import decompose

    magnitude = np.abs(np.random.default_rng(0).standard_normal((65, 300))).astype(np.float32)
    whole = decompose.hpss(magnitude)
    monkeypatch.setattr(hpss, "BLOCK", 64)
    for part, expected in zip(hpss._medians(magnitude), whole, strict=True):
        np.testing.assert_array_equal(part, expected)


def test_places_are_norberts():
    audio = panned_noise([(1.0, 0.5), (0.5, 1.0)], seconds=3.0)["bass"]
    _, place = norbert.get_local_gaussian_model(_frames_first(oracle.spectrum_of(audio)) / 7.0, FLOOR)
    np.testing.assert_allclose(_place(audio, 7.0), place[0], rtol=1e-9, atol=1e-12)


MEMORY = """
import resource, sys, tempfile
import numpy as np, torch
from companion.systems import load_system
from flowsep.config import FeatureConfig

torch.set_num_threads(1)
sources = ("vocals", "bass", "drums", "other")
system = load_system(sys.argv[1], sources=sources, folder=tempfile.gettempdir())
if sys.argv[1] == "nmf":
    system.options = system.options.model_copy(update={"activations": 2})
    system.feature = FeatureConfig()
    system.dictionaries = dict.fromkeys(sources, np.full((40, 513), 1 / 513, np.float32))
stems = {source: np.zeros((2, 30 * 44100), np.float32) for source in sources}
for seed, audio in enumerate(stems.values()):
    np.random.default_rng(seed).standard_normal(audio.shape, np.float32, audio)
mixture, peaks = sum(stems.values()), []
for seconds in (15, 30):
    samples = slice(seconds * 44100)
    references = {source: audio[:, samples] for source, audio in stems.items()}
    system.separate(mixture[:, samples], 44100, references if system.needs_references else None)
    peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024))
print((peaks[1] - peaks[0]) / (15 * 44100 * 2 * 4))
"""


@pytest.mark.parametrize("name", ["multichannel_wiener", "ideal_ratio_mask", "hpss", "nmf"])
def test_a_longer_song_takes_a_few_times_its_own_memory(name):
    """Four stems of the song's size are the result; spectra of it, or gains, would be tens."""
    told = subprocess.run([sys.executable, "-c", MEMORY, name], capture_output=True, text=True, timeout=300)
    assert told.returncode == 0, told.stderr
    assert float(told.stdout) < 12
