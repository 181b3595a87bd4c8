"""The priors that come with a clone: half as large, as good, with a card of what they are."""

import pandas as pd
import pytest
import ship_priors
from helpers import make_stems, write_track

from companion.profile import load_profile
from flowsep import FeatureConfig, load_prior


@pytest.fixture
def profile(tmp_path, monkeypatch, tiny_prior):
    for name in ("configs", "notebooks"):
        (tmp_path / name).mkdir()
    for place, seed in (("train/a", 1), ("train/b", 2), ("test/c", 3)):
        write_track(tmp_path / "songs" / place, make_stems(seed, seconds=2.0))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FLOWSEP_DATA", str(tmp_path / "cache"))
    data = {"kind": "musdb18hq", "root": str(tmp_path / "songs"), "valid_tracks": 1}
    made = load_profile({"name": "x", "data": data, "systems": {"flowsep": {}}})
    for seed, source in enumerate(made.sources):
        prior = tiny_prior(seed, source)
        prior.provenance |= {"training": {"noise": 0.3, "steps": 5}, "training_seconds": 2.5}
        prior.save(made.folder / "systems" / "flowsep" / "0" / "priors" / f"{source}.safetensors")
    return made


def test_they_are_written_scored_in_both_precisions_and_described(profile):
    ship_priors.main(profile)
    shipped, trained = profile.folder / "flowsep-priors", profile.folder / "systems" / "flowsep" / "0" / "priors"
    for source in profile.sources:
        small, large = (folder / f"{source}.safetensors" for folder in (shipped, trained))
        assert small.stat().st_size < 0.6 * large.stat().st_size
        assert load_prior(small).source == source and load_prior(small).noise == 0.3
    rows = pd.read_csv(profile.folder / "flowsep-priors.csv")
    assert list(rows.songs) == ["1 valid", "1 valid", "1 test"]
    assert (rows[rows.songs == "1 valid"][[*profile.sources]].diff().dropna().abs() < 0.1).all(axis=None)
    card = (shipped / "README.md").read_text()
    rate = FeatureConfig().sample_rate
    assert "1 songs of `musdb18hq`, 10 s of one core" in card and f"up to {rate / 2000:g} kHz" in card
    assert (
        f"{rows['mean'].iloc[-1]:.2f}" in card and "| training.noise | 0.3 |" in card and "| model.steps | 2 |" in card
    )
