"""The coupling nets of several flows at once against the layers of `glow` that they are gathered from."""

import copy

import pytest
import torch
from torch import nn

from flowsep.fast import net as nets
from flowsep.glow import AffineCoupling

CHANNELS, HIDDEN = 12, 5
SHAPES = {
    "two layers": {"layers": 2, "kernel": 3, "dilation_rate": 1},
    "three layers, dilated": {"layers": 3, "kernel": 5, "dilation_rate": 2},
    "one layer, wider than the crop": {"layers": 1, "kernel": 19, "dilation_rate": 1},
    "kernel of 1": {"layers": 2, "kernel": 1, "dilation_rate": 1},
}


def noise(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def couplings(count, **shape):
    torch.manual_seed(0)
    made = [AffineCoupling(CHANNELS, hidden=HIDDEN, dropout=0.0, **shape).double() for _ in range(count)]
    for coupling in made:
        for parameter in coupling.parameters():
            parameter.data.add_(0.2 * torch.randn_like(parameter))
    return made


class Fixed(nn.Module):
    """Dropout with masks that are given, one for each layer in turn."""

    def __init__(self, masks):
        super().__init__()
        self.masks = iter(masks)

    def forward(self, x):
        return x * next(self.masks).transpose(0, 1)


@pytest.mark.parametrize("dropout", [False, True])
@pytest.mark.parametrize("sources", [1, 3])
@pytest.mark.parametrize("name", SHAPES)
def test_every_weight_gets_the_gradient_of_autograd(name, sources, dropout):
    made, half = couplings(sources, **SHAPES[name]), torch.randperm(CHANNELS // 2)
    both = torch.cat([half, half + len(half)])
    net = nets.gather(made, half)
    dilations = tuple(gate.dilation[0] for gate in made[0].net.gates)
    x, g_out = noise(sources, CHANNELS // 2, 2, 8), noise(sources, CHANNELS, 2, 8, seed=1)
    masks = 2.0 * (noise(sources, len(dilations), 2 * HIDDEN, 2, 8, seed=2) > 0) if dropout else None
    inputs = x.transpose(1, 2).clone().requires_grad_()
    outputs = []
    for number, coupling in enumerate(made):
        if dropout:
            coupling.net.dropout = Fixed(masks[number])
        outputs.append(coupling.net(inputs[number]).transpose(0, 1))
    (torch.stack(outputs)[:, both] * g_out).sum().backward()

    prepared = nets.prepare(net, dilations, torch.float64)
    out, kept = nets.forward(prepared, x[:, half].contiguous(), masks)
    torch.testing.assert_close(out, torch.stack(outputs).detach()[:, both])
    before = torch.randn_like(x)  # the gradient is added to what lies there
    g_x = before.clone()
    gradients = nets.backward(prepared, kept, g_out, g_x, masks, x[:, half].contiguous())
    torch.testing.assert_close(g_x - before, inputs.grad.transpose(1, 2)[:, half])
    for coupling in made:
        for parameter in coupling.parameters():
            parameter.data = parameter.grad
    expected = nets.gather(made, half)  # the gradients as if they were weights
    for field in nets.Net._fields:
        torch.testing.assert_close(getattr(gradients, field), getattr(expected, field), msg=field)
        empty = field.startswith("residual") and len(dilations) == 1
        assert empty or getattr(gradients, field).any(), field
    alone = before.clone()
    assert nets.backward(prepared, kept._replace(inputs=[], total=None), g_out, alone, masks) is None
    assert torch.equal(alone, g_x)


def test_scatter_puts_back_what_was_gathered():
    made, half = couplings(3, layers=3, kernel=3, dilation_rate=1), torch.randperm(CHANNELS // 2)
    others = copy.deepcopy(made)
    for other in others:
        for parameter in other.parameters():
            parameter.data.zero_()
    nets.scatter(nets.gather(made, half), others, half)
    for coupling, other in zip(made, others, strict=True):
        torch.testing.assert_close(other.state_dict(), coupling.state_dict(), rtol=0, atol=0)
