"""Every log-determinant against an autograd Jacobian in float64, every inverse against its forward."""

import math

import pytest
import torch

from flowsep.glow import ActNorm, AffineCoupling, Glow, InvertibleConv, standard_normal_log_prob

NET = {"hidden": 6, "layers": 2, "kernel": 3, "dilation_rate": 2, "dropout": 0.0}


def randomise(module, seed=0):
    """Weights away from the identity that a new flow is."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype))
    return module.double().eval()


def small_glow(**changes):
    sizes = {"bins": 6, "squeeze": 2, "steps": 3, "groups": 4, "sigmoid_scale": False} | NET | changes
    return randomise(Glow(**sizes))


BIJECTIONS = {
    "actnorm": lambda: randomise(ActNorm(8)),
    "conv4": lambda: randomise(InvertibleConv(8, 4)),
    "conv2": lambda: randomise(InvertibleConv(8, 2)),
    "coupling": lambda: randomise(AffineCoupling(8, **NET)),
    "coupling, sigmoid": lambda: randomise(AffineCoupling(8, sigmoid_scale=True, **NET)),
    "glow": lambda: small_glow(bins=8),
    "glow, squeeze 4": lambda: small_glow(bins=8, squeeze=4),
    "glow, 2 groups, sigmoid": lambda: small_glow(bins=8, groups=2, sigmoid_scale=True),
}


@pytest.mark.parametrize("name", BIJECTIONS)
def test_logdet_is_that_of_the_jacobian_and_the_inverse_inverts(name):
    layer = BIJECTIONS[name]()
    x = torch.randn(2, 8, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    z, logdet = layer(x)
    back, inverse_logdet = layer.inverse(z)
    assert logdet.shape == inverse_logdet.shape == (2,)
    torch.testing.assert_close(back, x, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(inverse_logdet, -logdet, rtol=1e-9, atol=1e-9)
    for entry in range(2):
        one = x[entry : entry + 1]
        jacobian = torch.autograd.functional.jacobian(lambda v: layer(v)[0], one).reshape(32, 32)
        torch.testing.assert_close(logdet[entry], torch.linalg.slogdet(jacobian)[1], rtol=1e-9, atol=1e-9)
        jacobian = torch.autograd.functional.jacobian(lambda v: layer.inverse(v)[0], z[entry : entry + 1])
        expected = torch.linalg.slogdet(jacobian.reshape(32, 32))[1]
        torch.testing.assert_close(inverse_logdet[entry], expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("groups", [2, 4, 8])
def test_the_convolution_mixes_the_groups_of_the_paper(groups):
    channels, frames = 16, 3
    conv = InvertibleConv(channels, groups)
    x = torch.randn(1, channels, frames, generator=torch.Generator().manual_seed(2))
    viewed = x.view(1, 2, channels // groups, groups // 2, frames).permute(0, 1, 3, 2, 4)
    mixed = torch.einsum("kj,bjef->bkef", conv.weight, viewed.reshape(1, groups, channels // groups, frames))
    mixed = mixed.view(1, 2, groups // 2, channels // groups, frames).permute(0, 1, 3, 2, 4)
    torch.testing.assert_close(conv(x)[0], mixed.reshape(x.shape))


def test_a_new_convolution_is_a_rotation():
    for seed in range(8):
        torch.manual_seed(seed)
        weight = InvertibleConv(8, 4).weight
        torch.testing.assert_close(weight @ weight.T, torch.eye(4), atol=1e-6, rtol=0)
        assert torch.linalg.det(weight) > 0


def test_initialisation_normalises_every_channel_before_each_step():
    glow = small_glow(steps=2)
    x = 5 + 3 * torch.randn(16, 6, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    glow.initialise(x)
    h = glow._fold(x)
    for layer in glow.layers:
        h, _ = layer(h)
        if isinstance(layer, ActNorm):
            assert h.mean(dim=(0, 2)).abs().max() < 1e-9
            torch.testing.assert_close(h.var(dim=(0, 2), unbiased=False), torch.ones(12, dtype=torch.float64))


def test_a_constant_channel_does_not_break_the_initialisation():
    norm = ActNorm(2)
    norm.initialise(torch.zeros(4, 2, 8))
    assert torch.isfinite(norm.logs).all()


def test_dropout_acts_in_training_only():
    glow, x = small_glow(dropout=0.5), torch.randn(1, 6, 8, dtype=torch.float64)
    torch.testing.assert_close(glow(x)[0], glow(x)[0])
    glow.train()
    assert (glow(x)[0] - glow(x)[0]).abs().max() > 1e-6


def test_standard_normal_log_prob():
    z = torch.tensor([[0.0, 0.0], [1.0, 2.0]])
    expected = torch.tensor([-math.log(2 * math.pi), -2.5 - math.log(2 * math.pi)])
    torch.testing.assert_close(standard_normal_log_prob(z), expected)


@pytest.mark.parametrize(("bins", "frames"), [(5, 4), (6, 3)])
def test_wrong_shapes_are_refused(bins, frames):
    with pytest.raises(ValueError, match=r"expected .*6 bins.*divisible by 2"):
        small_glow()(torch.zeros(1, bins, frames, dtype=torch.float64))


def test_wrong_sizes_are_refused():
    with pytest.raises(ValueError, match="groups must be even"):
        InvertibleConv(6, 4)
    with pytest.raises(ValueError, match="kernel must be odd"):
        AffineCoupling(8, **(NET | {"kernel": 4}))
