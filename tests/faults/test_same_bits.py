"""Determinism on one machine: the same seed and number of threads give the same bits on a CPU, in any process."""

import pytest
from runs import differing, state
from tiny import PROFILE

pytestmark = pytest.mark.slow


def test_two_processes_fit_separate_and_score_to_the_same_bits(twins):
    one, other = map(state, twins)
    assert differing(one, other) == []
    kinds = {name.partition("/")[0] for name in one}
    assert kinds == {"priors", "systems", "shards", "scores", "audio"}
    assert sum(name.startswith("scores/") for name in one) == len(PROFILE["systems"])
