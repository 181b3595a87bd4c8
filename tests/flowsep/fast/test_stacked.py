"""Stacked flows against the layers they are made of: values, log-determinants and gradients in double precision."""

import pytest
import torch
from reference.checkpoints import research_checkpoint

from flowsep import load_prior
from flowsep.fast.layout import grouped_order
from flowsep.fast.stacked import StackedFlows

ARCHITECTURES = {
    "small": {},
    "kernel of 5": {"kernel_size_dec": 5, "hidden_channels": 3},
    "sigmoid, dilated": {"sigmoid_scale": True, "dilation_rate": 3},
    "squeeze by 4, 8 groups, one layer": {"n_sqz": 4, "n_split": 8, "n_block_layers": 1, "kernel_size_dec": 1},
    "one step, 2 groups": {"n_split": 2, "n_blocks_dec": 1, "kernel_size_dec": 7, "dilation_rate": 2},
}
BINS, FRAMES = 12, 16


def flows(folder, count, **model):
    priors = [load_prior(research_checkpoint(folder / str(i), i, bins=BINS, **model)) for i in range(count)]
    return [prior.glow.double().requires_grad_(False) for prior in priors]


def by_autograd(glows, z, gradient, logdet_weight):
    """(x, logdet, dL/dz) of L = <x, gradient> + logdet_weight * sum(logdet), layer by layer."""
    z = z.clone().requires_grad_()
    decoded = [glow.inverse(z[:, i]) for i, glow in enumerate(glows)]
    x, logdet = torch.stack([x for x, _ in decoded], dim=1), torch.stack([logdet for _, logdet in decoded])
    ((x * gradient).sum() + logdet_weight * logdet.sum()).backward()
    return x.detach(), logdet.detach(), z.grad


def noise(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_stack_is_its_flows(name, recompute, tmp_path):
    glows = flows(tmp_path, 3, **ARCHITECTURES[name])
    stack = StackedFlows(glows, dtype=torch.float64, recompute=recompute)
    for call in range(2):
        z, gradient = 0.3 * noise(2, 3, BINS, FRAMES, seed=call), noise(2, 3, BINS, FRAMES, seed=call + 9)
        x, logdet, expected = by_autograd(glows, z, gradient, 0.7)
        decoded, volume = stack.decode(stack.fold(z))
        torch.testing.assert_close(stack.unfold(decoded), x)
        torch.testing.assert_close(volume, logdet)
        product = stack.unfold(stack.vjp(stack.fold(gradient), 0.7))
        torch.testing.assert_close(product, expected, rtol=1e-9, atol=1e-12)


def test_single_precision_and_half_inside(tmp_path):
    glows = flows(tmp_path, 2, **ARCHITECTURES["small"])
    z, gradient = 0.3 * noise(1, 2, BINS, FRAMES), noise(1, 2, BINS, FRAMES, seed=1)
    x, _, expected = by_autograd(glows, z, gradient, 0.0)
    for inner, bound in ((torch.float32, 1e-5), (torch.bfloat16, 3e-2)):
        stack = StackedFlows(glows, inner=inner)
        decoded, _ = stack.decode(stack.fold(z.float()))
        product = stack.unfold(stack.vjp(stack.fold(gradient.float())))
        assert decoded.dtype == product.dtype == torch.float32
        assert (stack.unfold(decoded) - x).norm() < bound * x.norm()
        assert (product - expected).norm() < bound * expected.norm()


def tensors_in(value):
    """All tensors that can be reached from an object of this package."""
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, StackedFlows):
        value = vars(value)
    if isinstance(value, dict):
        value = value.values()
    return [x for each in value for x in tensors_in(each)] if hasattr(value, "__iter__") and value != [] else []


def bytes_in(value):
    return sum({x.untyped_storage().data_ptr(): x.untyped_storage().nbytes() for x in tensors_in(value)}.values())


def test_recomputing_keeps_one_step_only(tmp_path):
    """Bytes held for the gradient: those of one step whatever the depth, against those of every step."""

    def kept(depth, recompute):
        stack = StackedFlows(flows(tmp_path / f"{depth}", 1, n_blocks_dec=depth), recompute=recompute)
        weights = bytes_in(stack)
        assert weights > 0
        stack.decode(torch.zeros(1, 2 * BINS, 1, FRAMES // 2))
        return bytes_in(stack) - weights

    output = 4 * BINS * FRAMES
    assert kept(8, True) == kept(2, True) == output
    assert kept(8, False) - output == 4 * (kept(2, False) - output) > 0


def test_the_flows_stay_as_they_were(tmp_path):
    (glow,) = flows(tmp_path, 1)
    before = {name: value.clone() for name, value in glow.state_dict().items()}
    stack = StackedFlows([glow])
    stack.decode(torch.zeros(1, 2 * BINS, 1, FRAMES // 2))
    assert all(torch.equal(value, before[name]) for name, value in glow.state_dict().items())


def test_folding_is_the_flows_own(tmp_path):
    """But for the permutation that brings its channels into grouped order."""
    glows = flows(tmp_path, 2, n_sqz=4, n_split=8)
    order = grouped_order(4 * BINS, 8)
    assert not torch.equal(order, torch.arange(4 * BINS))
    stack = StackedFlows(glows, dtype=torch.float64)
    x = noise(3, 2, BINS, FRAMES)
    assert torch.equal(stack.unfold(stack.fold(x)), x)
    for entry in range(3):
        for source, glow in enumerate(glows):
            assert torch.equal(stack.fold(x)[source, :, entry], glow._fold(x[:, source])[entry, order])
