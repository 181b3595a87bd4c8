"""Magnitudes at any rate look like those of the priors, and sound again after their phase was lost."""

import numpy as np
import pytest
from pydantic import BaseModel

from companion import show
from flowsep import FeatureConfig


def _tone(frequency, rate, level=0.5):
    tone = level * np.sin(2 * np.pi * frequency * np.arange(rate) / rate)
    return np.float32([tone, tone])


@pytest.mark.parametrize("rate", [22050, 44100])
def test_a_tone_has_one_place_and_one_level_at_every_rate(rate):
    feature = FeatureConfig(sample_rate=22050, n_fft=1024, hop=256)
    x = show.magnitude(_tone(1000, rate), rate, feature)
    assert x.shape == (513, 1 + 22050 // 256)
    assert abs(x[:, 40].argmax() * 22050 / 1024 - 1000) < 22050 / 1024
    assert x[:, 40].max() == pytest.approx(0.5 * 1024 / 4, rel=0.15)  # half the sum of the window


def test_a_magnitude_sounds_again():
    rate, feature = 22050, FeatureConfig(sample_rate=22050, n_fft=1024, hop=256)
    x = show.magnitude(_tone(440, rate), rate, feature)
    audio = show.invert(x, feature.hop, seed=0)
    assert audio.shape == (256 * (x.shape[1] - 1),)
    np.testing.assert_array_equal(audio, show.invert(x, feature.hop, seed=0))
    spectrum = np.abs(np.fft.rfft(audio))
    assert abs(spectrum.argmax() * rate / len(audio) - 440) < 2
    assert show.invert(np.stack([x, x]), feature.hop, seed=0, samples=rate).shape == (2, rate)


class _Training(BaseModel):
    steps: int = 100
    noise: float | None = None


class _Options(BaseModel):
    power: float = 1.0
    members: list[_Training] = [_Training()]


def test_options_that_differ_stand_beside_their_defaults():
    mine = _Options(members=[_Training(), _Training(noise=0.3)])
    shown = show.changed_options(mine, _Options()).data
    expected = [("set 1, steps", "100"), ("set 2, steps", "100"), ("set 2, noise added in training", "0.3")]
    assert sorted(shown.to_numpy().tolist()) == sorted([name, here, "–"] for name, here in expected)
    assert show.changed_options(_Options(), _Options()) == "all options have their default values"


def test_facts_are_short_and_never_markup():
    page = show.facts_table({"learning_rate": 0.00012345, "noise": None, "source": "<b>bass"}).to_html()
    assert "learning rate" in page and "0.0001234" in page and "noise" not in page and "&lt;b&gt;bass" in page
