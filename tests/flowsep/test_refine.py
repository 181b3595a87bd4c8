"""The refined shares: they sum to the mixture, climb the objective, and find it where it is known."""

import pytest
import torch

from flowsep import FeatureConfig, GlowConfig, Prior, SeparationConfig, separate_magnitude
from flowsep.files import FlowsepError
from flowsep.refine import NoisyFlows, refine
from flowsep.search import Flows

MODEL = GlowConfig(bins=8, steps=1, hidden=4, layers=1, kernel=1, dropout=0.0)
FEATURE = FeatureConfig(sample_rate=8000, n_fft=14, hop=8, exponent=0.5)
SETTINGS = SeparationConfig.for_compressed_priors(iterations=4, refine=30)


def gaussian(mean, deviation, source="vocals", noise=0.3):
    """A prior that is a normal distribution of each bin: its coupling is the identity, its mixing a rotation."""
    torch.manual_seed(0)
    prior = Prior(MODEL, FEATURE, source, {"training": {"noise": noise}})
    norm = prior.glow.layers[0]
    with torch.no_grad():
        norm.logs.fill_(-torch.tensor(deviation).log())
        norm.bias.fill_(-mean / deviation)
    return prior.eval()


def mixture(batch=1):
    return torch.rand(batch, 8, 6, generator=torch.Generator().manual_seed(1)) + 1.0


@pytest.fixture
def priors(tiny_prior):
    made = {s: tiny_prior(k, s, MODEL) for k, s in enumerate(("vocals", "bass", "drums"))}
    for prior in made.values():
        prior.feature, prior.provenance = FEATURE, {"training": {"noise": 0.2}}
    return made


def flows(priors):
    return NoisyFlows(priors, torch.device("cpu"), torch.float64)


@pytest.mark.parametrize("exponent", [1.0, 0.5])
def test_equal_gaussians_with_two_means_have_a_known_optimum(exponent):
    # maximise -(x1 - a)^2 - (x2 - b)^2 with x_i = (m_i |x|)^c; noise moves neither: found on a grid
    made = {"vocals": gaussian(1.2, 0.5), "bass": gaussian(0.6, 0.5, "bass")}
    for prior in made.values():
        prior.feature = FEATURE.model_copy(update={"exponent": exponent})
    target = mixture().double()
    refined = refine(target, torch.ones(1, 2, 8, 6).double(), flows(made), SETTINGS.model_copy(update={"refine": 400}))
    grid = torch.linspace(1e-4, 1 - 1e-4, 4001, dtype=torch.float64).view(-1, 1, 1)
    cost = ((grid * target[0]) ** exponent - 1.2).square() + (((1 - grid) * target[0]) ** exponent - 0.6).square()
    best = grid[cost.argmin(dim=0)][..., 0, 0]
    # the noise is drawn anew in each step, and Adam averages over some
    assert (refined[0, 0] / target[0] - best).abs().mean() < 0.03


def test_estimates_are_shares_of_the_mixture(priors):
    estimates = separate_magnitude(mixture(), priors, SETTINGS.model_copy(update={"wiener": False}))
    total = torch.stack([*estimates.values()]).sum(dim=0)
    torch.testing.assert_close(total, mixture())
    assert all((x >= 0).all() for x in estimates.values())


def test_the_slope_is_that_of_finite_differences(priors):
    made, (batch, sources) = flows(priors), (2, 3)
    x = torch.rand(batch, sources, 8, 6, dtype=torch.float64)
    noise, direction = torch.randn(sources, 8, 6).double(), torch.randn(x.shape).double()
    _, slope = made.slope(x, noise)
    ahead, behind = (made.slope(x + h * direction, noise)[0] for h in (1e-5, -1e-5))
    assert ((ahead - behind) / 2e-5).item() == pytest.approx((slope * direction).sum().item(), rel=1e-6)


def test_it_climbs_the_objective(priors):
    seen = []
    start = torch.rand(1, 3, 8, 6, dtype=torch.float64)
    refine(mixture().double(), start, flows(priors), SETTINGS, lambda step, nll, estimates: seen.append(nll.item()))
    assert sum(seen[-5:]) < sum(seen[:5])


def test_entries_of_a_batch_are_independent_and_repeatable(priors):
    together = separate_magnitude(mixture(3), priors, SETTINGS)
    for name, stem in together.items():
        alone = torch.cat([separate_magnitude(entry[None], priors, SETTINGS)[name] for entry in mixture(3)])
        torch.testing.assert_close(stem, alone, rtol=1e-4, atol=1e-4)
        again = separate_magnitude(mixture(3), priors, SETTINGS)[name]
        assert torch.equal(stem, again)


def test_the_callback_counts_through_both_stages(priors):
    seen = []
    separate_magnitude(
        mixture(), priors, SETTINGS, lambda state: seen.append((state["iteration"], state["iterations"]))
    )
    assert seen == [(k, 34) for k in range(34)]


def test_priors_without_noise_are_refused(priors):
    priors["bass"].provenance = {}
    with pytest.raises(
        FlowsepError, match="prior 'bass' was trained without noise, which `refine` adds; set `refine: 0`"
    ):
        Flows(priors, SETTINGS)


def test_the_gradient_of_the_search_knows_the_exponent(priors):
    """`Flows.vjp` against autograd through the layers."""
    made = Flows(priors, SeparationConfig(precision="64-true"))
    z = [latent + 0.3 * torch.randn_like(latent) for latent in made.start(mixture().double(), 1.0, 0)]
    gradient = torch.randn(1, 8, 6).double()
    made.decode(z)
    made.vjp(gradient, z, 0.0, in_x=True)
    latents = made.engines[0].unfold(z[0]).detach().requires_grad_()
    layers = [prior.glow.double() for prior in priors.values()]
    x = torch.stack([flow.inverse(latents[:, k])[0] for k, flow in enumerate(layers)], dim=1)
    slope = x.detach().clamp_min(1e-3) ** (1 / FEATURE.exponent - 1) / FEATURE.exponent
    (x * slope * gradient.unsqueeze(1)).sum().backward()
    torch.testing.assert_close(made.engines[0].unfold(z[0].grad), latents.grad)
