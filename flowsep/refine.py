"""From the estimates of the search to shares of the mixture that are likely under all priors at once.

The search stops early: the maximum of its objective is no good separation, because a prior of noisy magnitudes has
never seen a magnitude without noise, and finds smooth estimates likelier than true stems. Here each prior judges what
it knows, estimates with the noise of its training added, and the sum of the estimates is the mixture by construction.
Steps then lead to a standstill instead of past the best point. Taught in `notebooks/14_beyond_the_paper.ipynb`.
"""

import copy
import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from .config import SeparationConfig
from .files import FlowsepError
from .glow import standard_normal_log_prob
from .prior import Prior

LR, BETAS = 0.15, (0.5, 0.99)  # of Adam; the learning rate falls to zero along a half cosine
SOFTEN = 0.5  # exponent of the search's shares at the start, which lets doubtful bins change sides
SMALLEST = 1e-8  # magnitude, whose root has a slope


def refine(
    target: Tensor,
    estimates: Tensor,
    flows: "NoisyFlows",
    config: SeparationConfig,
    callback: Callable[[int, Tensor, Tensor], None] | None = None,
) -> Tensor:
    """argmax over shares m of E_n[sum_i log p_i((m_i |x|)^c + s_i n)], m_i >= 0, sum_i m_i = 1; returns m_i |x|.

    c is the exponent of the feature, s_i the noise in the training of prior i, n standard normal noise, drawn anew in
    each of `config.refine` steps. The shares are m = softmax(u), and Adam moves u from half of the logarithm of
    the shares of `estimates`. Poole et al. 2023 and Mardani et al. 2024 use diffusion models in this way; Jayaram and
    Thickstun 2020 separate with priors of noisy sources.

    Args:
        target: padded magnitudes of the mixture, linear; the entries of a batch are independent.
        estimates: of `search.search`; only their shares count.
        callback: called with the number of the step, the mean of -log p in nats per element, and the estimates.
    Shape:
        (batch, bins, frames), (batch, sources, bins, frames) -> (batch, sources, bins, frames).
    """
    shares = estimates.clamp_min(1e-3)
    u = (SOFTEN * (shares / shares.sum(dim=1, keepdim=True)).log()).clamp_min(-6.0)
    exponent, mixture = flows.exponent, target.unsqueeze(1)
    noise = torch.Generator(target.device).manual_seed(config.seed)
    optimizer = torch.optim.Adam([u], LR, betas=BETAS)
    for step in range(config.refine):
        shares = u.softmax(dim=1)
        features = (mixture * shares).clamp_min(SMALLEST).pow(exponent)
        # the same noise for all entries of a batch: none depends on the others
        drawn = torch.randn(features.shape[1:], generator=noise, device=target.device, dtype=target.dtype)
        logp, slope = flows.slope(features, drawn)
        if callback is not None:
            callback(step, -logp / features.numel(), mixture * shares)
        pull = slope * features
        u.grad = -exponent * (pull - shares * pull.sum(dim=1, keepdim=True))
        optimizer.param_groups[0]["lr"] = LR * 0.5 * (1 + math.cos(math.pi * step / config.refine))
        optimizer.step()
    return mixture * u.softmax(dim=1)


class NoisyFlows:
    """log p_i(x_i + s_i n_i) and its slope in the features x, by autograd through copies of the priors' flows.

    Raises FlowsepError for a prior that was trained without noise.
    """

    def __init__(self, priors: Mapping[str, Prior], device: torch.device, dtype: torch.dtype):
        if noiseless := [name for name, prior in priors.items() if not prior.noise]:
            cure = "set `refine: 0`, or train it with `training.noise`"
            raise FlowsepError(f"prior '{noiseless[0]}' was trained without noise, which `refine` adds; {cure}")
        self.exponent = next(iter(priors.values())).feature.exponent
        copies = [copy.deepcopy(prior.glow).requires_grad_(False).eval() for prior in priors.values()]
        self.flows = [glow.to(device, dtype) for glow in copies]
        self.noises = [prior.noise for prior in priors.values()]

    @torch.enable_grad()
    def slope(self, features: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """sum_i log p_i(x_i + s_i n_i), a scalar, and its gradient with respect to x.

        Shape: (batch, sources, bins, frames), (sources, bins, frames) -> (), (batch, sources, bins, frames).
        """
        total, slopes = features.new_zeros(()), []
        for s, flow, x, n in zip(self.noises, self.flows, features.unbind(1), noise, strict=True):
            noisy = (x + s * n).detach().requires_grad_()
            z, logdet = flow(noisy)
            logp = (standard_normal_log_prob(z) + logdet).sum()
            slopes += torch.autograd.grad(logp, noisy)
            total += logp.detach()
        return total, torch.stack(slopes, dim=1)
