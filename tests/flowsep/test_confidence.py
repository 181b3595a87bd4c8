"""The expected ratio of a stem and its error: known answers, blocks of any size, and the fit to real songs."""

import csv
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from flowsep.confidence import ABOVE, BELOW, OFFSET, SLOPE, ConfidenceFile, expected_ratio

RATE = 8000
MEASURED = Path(__file__).parents[2] / "results" / "research" / "confidence.csv"


def tones(*levels):
    """Sources that never meet: a sine each, (sources, 1, samples)."""
    time = torch.arange(RATE) / RATE
    waves = [level * torch.sin(2 * torch.pi * 500 * (k + 1) * time) for k, level in enumerate(levels)]
    return torch.stack(waves).unsqueeze(1)


def test_shares_of_one_mixture_have_the_variance_of_a_wiener_filter():
    mixture = torch.randn(1, 2, RATE, generator=torch.Generator().manual_seed(0))
    for share in (0.1, 0.5, 0.9):
        first, second = expected_ratio(torch.cat([share * mixture, (1 - share) * mixture]), RATE)
        assert first.item() == pytest.approx(10 * np.log10(share / (1 - share)), abs=1e-3)
        assert second.item() == pytest.approx(-first.item(), abs=1e-3)


def test_sources_that_never_meet_are_certain():
    apart, mixed = tones(1.0, 1.0), torch.randn(2, 1, RATE, generator=torch.Generator().manual_seed(0))
    assert (expected_ratio(apart, RATE) > 12).all() and (expected_ratio(mixed, RATE) < 6).all()


def test_a_silent_stem_has_no_ratio():
    ratio = expected_ratio(torch.cat([tones(1.0), torch.zeros(1, 1, RATE)]), RATE)
    assert torch.isnan(ratio).tolist() == [False, True]


def rows_of(path):
    with path.open(newline="") as file:
        return [*csv.DictReader(file)]


@pytest.mark.parametrize("block", [100, 3000, 8000, 30_000])
def test_blocks_of_any_size_make_the_same_file(block, tmp_path):
    stems = np.random.default_rng(0).standard_normal((2, 2, 3 * RATE + 100)).astype(np.float32)
    with ConfidenceFile(tmp_path / "c.csv", RATE) as file:
        for start in range(0, stems.shape[2], block):
            file.add(dict(zip(("vocals", "bass"), stems[:, :, start : start + block], strict=True)))
    rows = rows_of(tmp_path / "c.csv")
    assert [(row["second"], row["stem"]) for row in rows] == [(str(k), s) for k in range(3) for s in ("vocals", "bass")]
    ratio = expected_ratio(torch.from_numpy(stems[:, :, RATE : 2 * RATE].copy()), RATE)[1].item()
    assert float(rows[3]["expected_db"]) == pytest.approx(SLOPE * ratio + OFFSET, abs=0.01)
    assert float(rows[3]["high_db"]) - float(rows[3]["low_db"]) == pytest.approx(BELOW + ABOVE, abs=0.02)


def test_what_is_shorter_than_a_second_and_what_is_silent(tmp_path):
    with ConfidenceFile(tmp_path / "c.csv", RATE) as file:
        file.add({"vocals": np.full((1, 50), 0.1, np.float32), "bass": np.zeros((1, 50), np.float32)})
    vocals, bass = rows_of(tmp_path / "c.csv")
    assert float(vocals["level_db"]) == 0 and bass["expected_db"] == bass["level_db"] == ""


def test_a_failure_leaves_no_file(tmp_path):
    with pytest.raises(KeyError), ConfidenceFile(tmp_path / "c.csv", RATE) as file:
        file.add({"vocals": np.zeros((1, 50), np.float32)})
        raise KeyError
    assert not [*tmp_path.iterdir()]


def test_the_constants_are_the_fit_to_the_measured_songs_and_cover_songs_that_were_not_fitted():
    rows = pd.read_csv(MEASURED)
    slope, offset = np.polyfit(rows.expected, rows.true, 1)
    rest = rows.true - (SLOPE * rows.expected + OFFSET)
    assert abs(slope - SLOPE) < 0.03 and abs(offset - OFFSET) < 0.15
    assert rest.quantile([0.05, 0.95]).tolist() == pytest.approx([-BELOW, ABOVE], abs=0.3)
    covered, songs = [], sorted(rows.track.unique())
    for part in range(3):  # fitted to two thirds of the songs
        own = rows.track.isin(songs[part::3])
        line = np.polyfit(rows[~own].expected, rows[~own].true, 1)
        low, high = (rows[~own].true - np.polyval(line, rows[~own].expected)).quantile([0.05, 0.95])
        left = rows[own].true - np.polyval(line, rows[own].expected)
        covered.append(left.between(low, high))
    assert 0.85 <= pd.concat(covered).mean() <= 0.95
