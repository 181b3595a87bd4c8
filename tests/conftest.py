"""Shared fixtures; one thread per test process, so that the suite behaves alike next to other jobs."""

import pytest
import torch

from flowsep import FeatureConfig, GlowConfig, Prior

torch.set_num_threads(1)

TINY = GlowConfig(steps=2, hidden=8, layers=2, kernel=3, dropout=0.0)


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


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first, so that no worker ends with them alone; xdist keeps this order (pyproject.toml)."""
    items.sort(key=lambda item: item.get_closest_marker("chain") is None)
