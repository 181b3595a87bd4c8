"""The filter for several channels: identities, and what it gains where sources stand in different places."""

import numpy as np
import pytest
import torch

from flowsep import SeparationConfig, Separator
from flowsep.stereo import in_stereo


def spectra(places, bins=12, frames=40, seed=0):
    """Sources with random spectra, (sources, channels, bins, frames), each at gains of its own."""
    draw = torch.Generator().manual_seed(seed)
    size = torch.rand(len(places), 1, bins, frames, generator=draw) ** 2
    tone = torch.complex(*(torch.randn(len(places), 1, bins, frames, generator=draw) for _ in range(2)))
    return size * tone * torch.tensor(places, dtype=torch.float32)[:, :, None, None]


def shares_of(sources):
    size = sources.abs().square().mean(dim=1).sqrt()
    return size / size.sum(dim=0)


def test_the_stems_sum_to_the_mixture():
    sources = spectra([[1, 0.2], [0.3, 1], [1, 1]])
    for rounds in (0, 1, 5):
        stems = in_stereo(shares_of(sources), sources.sum(dim=0), rounds)
        torch.testing.assert_close(stems.sum(dim=0), sources.sum(dim=0), rtol=1e-3, atol=1e-3)


def test_without_rounds_it_is_the_mask():
    sources = spectra([[1, 0.2], [0.3, 1]])
    shares, mixture = shares_of(sources), sources.sum(dim=0)
    torch.testing.assert_close(in_stereo(shares, mixture, 0), shares.unsqueeze(1) * mixture, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("gains", [[1.0], [1.0, 1.0], [0.5, 1.0, 0.2]])
def test_sources_in_one_place_keep_their_masks(gains):
    sources = spectra([gains, gains])
    shares, mixture = shares_of(sources), sources.sum(dim=0)
    assert (in_stereo(shares, mixture, 3) - shares.unsqueeze(1) * mixture).abs().max() < 0.02 * mixture.abs().max()


def error(stems, sources):
    return ((stems - sources).abs().square().sum() / sources.abs().square().sum()).item()


def test_sources_in_two_places_come_apart_even_with_blunt_masks():
    sources = spectra([[1, 0.1], [0.1, 1]])
    mixture = sources.sum(dim=0)
    blunt = 0.5 + 0.3 * (shares_of(sources) - 0.5)
    errors = [error(in_stereo(blunt, mixture, rounds), sources) for rounds in (0, 1, 3)]
    assert errors[0] > errors[1] > errors[2] and errors[2] < 0.6 * errors[0]


def test_silence_stays_silent():
    stems = in_stereo(torch.full((2, 12, 4), 0.5), torch.zeros(2, 12, 4, dtype=torch.complex64), 3)
    assert torch.isfinite(stems.abs()).all() and not stems.abs().any()


def test_a_separator_uses_it_for_stereo_alone(tiny_prior):
    priors = {s: tiny_prior(k, s) for k, s in enumerate(("vocals", "bass"))}
    noise = np.random.default_rng(0).standard_normal((2, 22_050)).astype(np.float32) / 10
    plain, placed = (Separator(priors, SeparationConfig(iterations=3, stereo=rounds)) for rounds in (0, 3))
    stereo, mono = placed(noise, 22_050), placed(noise[:1], 22_050)
    assert not np.allclose(stereo["bass"], plain(noise, 22_050)["bass"], atol=1e-4)
    np.testing.assert_allclose(stereo["bass"] + stereo["vocals"], noise, atol=1e-5)
    np.testing.assert_array_equal(mono["bass"], plain(noise[:1], 22_050)["bass"])
