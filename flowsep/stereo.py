"""A filter for several channels from the sources' shares of every bin and from where the sources are."""

import torch
from torch import Tensor

SHRINK = 0.1  # how much of the mixture's covariance each source's gets, in shares of the sources' mean power
SPREAD = 0.02  # least power of a direction, where a channel's is 1: mono songs have two equal channels


def in_stereo(shares: Tensor, spectrum: Tensor, rounds: int) -> Tensor:
    """y_i = m_i R_i (sum_j m_j R_j)^-1 x, a multichannel Wiener filter; R_i tells where source i is between channels.

    R_i is one real matrix per source, for all bins and frames, with a mean diagonal of 1. All begin as R_x, the matrix
    of the mixture: the filter is then the mask m_i. Each round is a step of expectation-maximisation. Two restraints
    keep errors of the masks from growing: the shares m_i stay as they are, and R_x is added with a weight of `SHRINK`.
    Duong, Vincent and Gribonval 2010 have the model; norbert, for one, updates the shares too.

    Args:
        shares: of the sources, not negative, which sum to one.
        spectrum: of the mixture in all channels, complex.
    Shape:
        (sources, bins, frames), (channels, bins, frames) -> (sources, channels, bins, frames).
    """
    channels, power = len(spectrum), spectrum.abs().square().mean(dim=0)
    unit, parts = torch.eye(channels, dtype=power.dtype, device=power.device), torch.view_as_real(spectrum)

    def scaled(covariance: Tensor) -> Tensor:
        return covariance / covariance.diagonal(dim1=-2, dim2=-1).mean(dim=-1)[..., None, None].clamp_min(1e-12)

    whole = scaled(torch.einsum("cbt,dbt->cd", spectrum, spectrum.conj()).real) + SPREAD * unit
    places = whole.expand(len(shares), -1, -1)
    for done in range(rounds + 1):
        explained = torch.einsum("sbt,scd->sbtcd", shares, places)
        filters = explained @ torch.linalg.inv(explained.sum(dim=0))
        stems = torch.view_as_complex(torch.einsum("sbtcd,dbtr->scbtr", filters, parts).contiguous())
        if done < rounds:
            explained *= power[..., None, None]
            left = (explained - filters @ explained).sum(dim=(1, 2))  # what the filter cannot tell
            moments = torch.einsum("scbt,sdbt->scd", stems, stems.conj()).real + left
            size = moments.diagonal(dim1=-2, dim2=-1).mean().clamp_min(1e-12)
            places = scaled(moments / size + SHRINK * whole)
    return stems
