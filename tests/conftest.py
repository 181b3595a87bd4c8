"""Shared fixtures; one thread per test process, so that the suite behaves alike next to other jobs."""

import pytest
import torch
from browser import launch
from chain import run
from helpers import TINY, copy_project

from flowsep import FeatureConfig, GlowConfig, Prior

torch.set_num_threads(1)


@pytest.fixture
def tiny_prior():
    """Build an untrained prior whose couplings do something: their last layers are random instead of zero."""

    def build(seed: int = 0, source: str = "vocals", model: GlowConfig = TINY) -> Prior:
        torch.manual_seed(seed)
        prior = Prior(model, FeatureConfig(), source, {"made by": "a test"})
        for name, parameter in prior.named_parameters():
            if "net.end" in name or "logs" in name:
                torch.nn.init.normal_(parameter, std=0.02)
        return prior.eval()

    return build


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """A copy of the project (a folder with a blank and an umlaut in its name) with the book made, and what was said."""
    tree = copy_project(tmp_path_factory.mktemp("chain") / "flowsep kopie ü")
    done = run(tree)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-6000:]
    return tree, done.stdout


@pytest.fixture(scope="session")
def tree(made):
    return made[0]


@pytest.fixture(scope="session")
def results(tree):
    return tree / "results" / "smoke"


@pytest.fixture(scope="session")
def html(tree):
    return tree / "book" / "_build" / "html"


@pytest.fixture(scope="module")
def chromium():
    with launch() as browser:
        yield browser


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first, so that no worker ends with them alone; xdist keeps this order (pyproject.toml)."""
    items.sort(key=lambda item: item.get_closest_marker("chain") is None)
