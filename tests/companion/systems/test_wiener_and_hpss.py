"""The multichannel Wiener oracle and harmonic-percussive separation, on mixtures whose answers are known."""

import sys

import numpy as np
import pytest

from companion.scores.metrics import sdr
from companion.systems import load_system
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
