"""The hash of the code behind a number: what counts in it, and what does not."""

from pathlib import Path

import pytest

from flowsep.baselines import SYSTEMS, code_of
from flowsep.codehash import bare, code_hash

CODE = '''"""A module."""

def double(x):
    """Twice x."""
    if x:  # a remark
        x = 2 * x
    return f"{x} dB"
'''


@pytest.mark.parametrize(
    ("old", "new", "same"),
    [
        ("Twice x.", "x + x.", True),
        ("A module.", "Another text.", True),
        ("  # a remark", "", True),
        ("def double(x):\n", "\n\ndef double(\n    x\n):\n", True),
        ("2 * x", "3 * x", False),
        ("        x = 2 * x\n    return", "        x = 2 * x\n        return", False),  # indentation counts
        (" dB", " B", False),
    ],
)
def test_only_what_may_change_a_number_counts(old, new, same):
    assert old in CODE
    assert (bare(CODE.replace(old, new)) == bare(CODE)) == same


def test_each_system_hangs_on_its_own_code(tmp_path):
    """Another file of one's own, another network: other hashes; what all share is in all of them."""
    hashes = {name: code_of(name) for name in SYSTEMS}
    assert hashes["open_unmix"] == hashes["open_unmix_random"]  # of one file
    assert len(set(hashes.values())) >= len({module.partition(":")[0] for module in SYSTEMS.values()})
    own = tmp_path / "mine.py"
    own.write_text("x = 1")
    before = code_of("mine", {"class": f"{own}:Mine"})
    own.write_text("x = 2")
    assert code_hash("run") != before  # with the file and without
    assert code_hash("run", others=[Path(__file__)]) != before


def test_modules_that_show_numbers_do_not_make_them(monkeypatch):
    from flowsep import codehash

    names = {path.stem for path in codehash._closure(["run", "baselines.smoothed"])}
    assert {"separate", "train", "glow", "data", "toyband", "metrics"} <= names
    assert not {"plots", "player", "slider", "results", "cli", "live", "bench"} & names
