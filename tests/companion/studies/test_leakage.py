"""What an error is made of, against errors that were mixed to order."""

import numpy as np
import pytest

from companion.studies.leakage import REST, leakage

RATE = 22050


@pytest.fixture
def stems():
    rng = np.random.default_rng(3)
    return {name: rng.standard_normal((2, RATE)) for name in ("vocals", "bass", "drums")}


def test_an_error_of_one_other_stem_is_told(stems):
    shares = leakage(stems, stems["vocals"] + 0.3 * stems["drums"], "vocals", RATE)
    assert shares["drums"] == pytest.approx(1, abs=1e-9) and abs(shares["bass"]) < 1e-9 and abs(shares[REST]) < 1e-9
    assert sum(shares.values()) == pytest.approx(1)


def test_two_leaks_share_the_error_by_their_energies(stems):
    shares = leakage(stems, stems["vocals"] + 0.4 * stems["drums"] - 0.2 * stems["bass"], "vocals", RATE)
    assert shares["drums"] == pytest.approx(0.8, abs=0.03) and shares["bass"] == pytest.approx(0.2, abs=0.03)
    assert abs(shares[REST]) < 1e-9


def test_gains_may_change_in_time_and_frequency(stems):
    """A leak that is there in the second half alone is found as well: gains hold for a quarter of a second."""
    gate = np.where(np.arange(RATE) < RATE // 2, 0.0, 0.5)
    assert leakage(stems, stems["vocals"] + gate * stems["drums"], "vocals", RATE)["drums"] > 0.95


def test_noise_that_is_no_stem_is_left_over(stems):
    noise = np.random.default_rng(4).standard_normal((2, RATE))
    assert leakage(stems, stems["vocals"] + 0.1 * noise, "vocals", RATE)[REST] > 0.95


def test_what_is_missing_of_the_source_is_no_leak(stems):
    assert leakage(stems, 0.5 * stems["vocals"], "vocals", RATE)[REST] > 0.95
    assert leakage(stems, stems["vocals"], "vocals", RATE) == {}


def test_silent_stems_are_left_out(stems):
    stems["bass"] = np.zeros_like(stems["bass"])
    assert set(leakage(stems, stems["vocals"] + 0.1 * stems["drums"], "vocals", RATE)) == {"drums", REST}
    assert set(leakage({"vocals": stems["vocals"]}, 0 * stems["vocals"], "vocals", RATE)) == {REST}
