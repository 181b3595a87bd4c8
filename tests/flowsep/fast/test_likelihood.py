"""The likelihood of training against the flow it belongs to, and against a plain port of the paper's training step."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from reference import paper, training
from reference.checkpoints import research_names
from torch.profiler import ProfilerActivity, profile

from flowsep.fast import net as nets
from flowsep.fast.likelihood import NORMALISED, Likelihood
from flowsep.glow import Glow, standard_normal_log_prob

FIXTURE = Path(__file__).parents[2] / "fixtures" / "instglow_small"
SIZES = {"bins": 8, "squeeze": 2, "steps": 3, "hidden": 6, "layers": 2, "kernel": 3, "dilation_rate": 2, "groups": 4}
SIZES |= {"dropout": 0.0, "sigmoid_scale": False}
FLOWS = {
    "squeeze by 2, 4 groups": {},
    "squeeze by 4, 8 groups, sigmoid": {"squeeze": 4, "groups": 8, "sigmoid_scale": True},
    "one layer, wider than the crop": {"layers": 1, "kernel": 19},  # some taps see nothing but the zeros around
    "no squeeze, 2 groups, kernel 1": {"squeeze": 1, "groups": 2, "kernel": 1, "sigmoid_scale": True},
}


def some_glow(**changes):
    """Away from the identity that a new flow is."""
    torch.manual_seed(0)
    glow = Glow(**(SIZES | changes)).double()
    for parameter in glow.parameters():
        parameter.data.add_(0.2 * torch.randn_like(parameter))
    return glow


def some_batch(seed=1, frames=16):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(3, 8, frames, dtype=torch.float64, generator=generator)


def value_and_gradients(network, x, seed=0):
    """log p(x), and {name: gradient} of its mean, that of x among them."""
    torch.manual_seed(seed)  # of dropout
    x = x.clone().requires_grad_()
    network.zero_grad()
    value = network(x)
    value.mean().backward()
    return value.detach(), {name: p.grad.clone() for name, p in network.named_parameters()} | {"x": x.grad}


@pytest.mark.parametrize("name", FLOWS)
def test_value_and_gradient_of_x_are_those_of_the_flow(name):
    glow, x = some_glow(**FLOWS[name]), some_batch().requires_grad_()
    z, logdet = glow(x)
    expected = standard_normal_log_prob(z) + logdet
    expected.mean().backward()
    value, gradients = value_and_gradients(Likelihood(glow), x.detach())
    torch.testing.assert_close(value, expected.detach(), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(gradients["x"], x.grad, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", FLOWS)
def test_loss_and_gradients_are_those_of_the_plain_port(name):
    """Which back-propagates through weight norm and all by itself, on the same weights under the paper's names."""
    sizes = SIZES | FLOWS[name]
    network, x = Likelihood(some_glow(**FLOWS[name])), some_batch()
    stacked = {key: p.detach() for key, p in network.named_parameters()}
    weights = research_names(stacked, network.order)
    weights = {key: weight.clone().requires_grad_() for key, weight in weights.items()}
    settings = {
        "n_sqz": sizes["squeeze"], "n_split": sizes["groups"], "n_blocks_dec": sizes["steps"],
        "hidden_channels": sizes["hidden"], "n_block_layers": sizes["layers"], "kernel_size_dec": sizes["kernel"],
        "dilation_rate": sizes["dilation_rate"], "sigmoid_scale": sizes["sigmoid_scale"],
    }  # fmt: skip
    expected = training.loss(weights, settings, x)
    expected.backward()
    value, gradients = value_and_gradients(network, x)
    assert -value.mean().item() / x[0].numel() == pytest.approx(expected.item(), abs=1e-12)
    del gradients["x"]
    named = research_names(gradients, network.order)
    assert set(named) == set(weights)
    for key, gradient in named.items():
        torch.testing.assert_close(-gradient / x[0].numel(), weights[key].grad, rtol=1e-9, atol=1e-12, msg=key)


@pytest.mark.parametrize("name", FLOWS)
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_recomputed_activations_give_the_same_gradients(name, dropout):
    glow, x = some_glow(**FLOWS[name], dropout=dropout), some_batch()
    ordinary = value_and_gradients(Likelihood(glow), x)
    again = value_and_gradients(Likelihood(glow, recompute=True), x)
    torch.testing.assert_close(again, ordinary, rtol=1e-9, atol=1e-10)


CHECKED = {
    "two layers": {},
    "dropout": {"dropout": 0.3},
    "sigmoid": {"sigmoid_scale": True},
    "three layers, dilated": {"steps": 1, "layers": 3, "dilation_rate": 2},
    "one layer, dropout": {"layers": 1, "dropout": 0.3},
    "no squeeze, 2 groups, kernel 1": {"squeeze": 1, "groups": 2, "kernel": 1},
}


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("name", CHECKED)
def test_gradients_are_those_of_differences(name, recompute):
    """Of x and each parameter, number by number."""
    sizes = {"bins": 4, "steps": 2, "hidden": 2} | CHECKED[name]
    network = Likelihood(some_glow(**sizes), recompute=recompute)
    parameters = dict(network.named_parameters())
    missing = set(nets.Net._fields) - set(parameters)
    assert missing == ({"residual", "residual_bias"} if sizes.get("layers") == 1 else set())

    def value(x, *weights):
        torch.manual_seed(0)  # of dropout
        return torch.func.functional_call(network, dict(zip(parameters, weights, strict=True)), (x,))

    x = some_batch(frames=4)[:2, :4].clone().requires_grad_()
    weights = [weight.detach().clone().requires_grad_() for weight in parameters.values()]
    assert torch.autograd.gradcheck(value, (x, *weights), eps=1e-6, atol=1e-6, rtol=1e-6)


def test_the_plain_port_gives_what_the_research_code_gave():
    """In double precision, so that all that differs is the research code's own rounding, the same on any machine."""
    expected = np.load(FIXTURE / "expected.npz")
    weights, settings = paper.load(FIXTURE)
    weights = {name: weight.double() for name, weight in weights.items()}
    spectrogram = torch.from_numpy(expected["spec"]).double()
    z, logdet = training.encode(weights, settings, spectrogram)
    np.testing.assert_allclose(z, expected["z"], atol=1e-5 * np.abs(expected["z"]).max())
    np.testing.assert_allclose(logdet, expected["logdet"], rtol=1e-5)
    assert training.loss(weights, settings, spectrogram).item() == pytest.approx(float(expected["nll"]), rel=1e-5)


def test_the_plain_port_learns():
    torch.manual_seed(0)
    weights, settings = paper.load(FIXTURE)
    weights = {name: weight.clone().requires_grad_() for name, weight in weights.items()}
    optimizer = torch.optim.Adam(weights.values(), lr=1e-3)
    audio = 0.1 * torch.randn(2, 7 * 256)  # 8 frames
    values = [training.step(weights, settings, optimizer, audio, edge=0) for _ in range(8)]
    assert all(math.isfinite(value) for value in values) and values[-1] < values[0]


@pytest.mark.parametrize("name", FLOWS)
def test_weights_go_back_where_they_came_from(name):
    glow, other = some_glow(**FLOWS[name]), some_glow(**FLOWS[name], dropout=0.1)
    x = some_batch()
    network = Likelihood(glow)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.05)
    assert (network(x) - Likelihood(other).eval()(x)).abs().min() > 1e-3
    network.put_back(other)
    torch.testing.assert_close(network(x), Likelihood(other).eval()(x), rtol=1e-12, atol=1e-12)
    assert set(other.state_dict()) == set(glow.state_dict())


def test_dropout_acts_in_training_only_and_follows_the_seed():
    network, x = Likelihood(some_glow(dropout=0.3)), some_batch()
    first, again, other = (value_and_gradients(network, x, seed)[0] for seed in (1, 1, 2))
    assert torch.equal(first, again) and (first - other).abs().min() > 1e-3
    network.eval()
    torch.testing.assert_close(network(x), Likelihood(some_glow())(x))


@pytest.mark.parametrize("recompute", [False, True])
def test_under_autocast_only_the_coupling_nets_are_coarser(recompute):
    network, x = Likelihood(some_glow().float(), recompute=recompute), some_batch().float()
    exact, slopes = value_and_gradients(network, x)
    torch.manual_seed(0)
    network.zero_grad()
    with torch.autocast("cpu", torch.bfloat16):
        value = network(x)
    value.mean().backward()
    assert value.dtype == torch.float32 and 0 < (value - exact).abs().max() < 0.02 * exact.abs().max()
    for name, parameter in network.named_parameters():
        assert parameter.grad.dtype == torch.float32
        assert (parameter.grad - slopes[name]).norm() < 0.1 * slopes[name].norm(), name


def peak_bytes(steps, **options):
    """Most bytes that one gradient holds beyond what lies there before and what belongs to the weights.

    That is their gradients, of each step and joined, and the normalised ones.
    """
    torch.manual_seed(0)
    sizes = SIZES | {"bins": 32, "steps": steps, "hidden": 16}
    network = Likelihood(Glow(**sizes), **options)
    x = torch.randn(8, 32, 64)
    network(x).mean().backward()  # gradients are there from now on
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as events:
        network(x).mean().backward()
    changes = [(e.start_ns(), e.nbytes()) for e in events.profiler.kineto_results.events() if e.name() == "[memory]"]
    held = np.cumsum([change for _, change in sorted(changes, key=lambda change: change[0])])
    numbers = sum((2 + (name in NORMALISED)) * p.numel() for name, p in network.named_parameters())
    return held.max() - 4 * numbers


def test_recomputing_memory_does_not_grow_with_depth():
    """Of a flow of 48 steps within 1.3 times that of 12; with all activations kept it is about four times."""
    assert peak_bytes(48, recompute=True) < 1.3 * peak_bytes(12, recompute=True)
    assert peak_bytes(48) > 3 * peak_bytes(12)
    assert peak_bytes(12, recompute=True) < 0.3 * peak_bytes(12)
