"""The count of faults, which `make test-faults` leaves in `results/faults.json` when all of them were survived."""

from collections import Counter

import pytest

COUNTED = pytest.StashKey[Counter]()


def pytest_configure(config):
    config.stash[COUNTED] = Counter()


@pytest.fixture
def inject(request):
    """`inject(kind, n)` counts n faults of a kind; a test that fails afterwards leaves no file at all."""

    def count(kind: str, number: int = 1) -> None:
        request.config.stash[COUNTED][kind] += number

    return count
