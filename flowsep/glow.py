"""The flow: ActNorm, grouped invertible 1x1 convolution and affine coupling over (batch, channels, frames).

Every layer is a bijection with `forward(x) -> (z, logdet)` and `inverse(z) -> (x, logdet)`; `logdet` is
log |det dz/dx| (of the inverse: log |det dx/dz|), summed over all elements, one number per batch entry, shape (batch,).
Kingma and Dhariwal 2018 (Glow), in the grouped variant of the paper; taught in `notebooks/03_glow.ipynb`.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn


class ActNorm(nn.Module):
    """z = bias + exp(logs) x per channel; log-det = frames * sum(logs)."""

    def __init__(self, channels: int):
        super().__init__()
        self.logs = nn.Parameter(torch.zeros(channels, 1))
        self.bias = nn.Parameter(torch.zeros(channels, 1))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return torch.addcmul(self.bias, torch.exp(self.logs), x), self._logdet(x)

    def inverse(self, z: Tensor) -> tuple[Tensor, Tensor]:
        return (z - self.bias) * torch.exp(-self.logs), -self._logdet(z)

    def _logdet(self, x: Tensor) -> Tensor:
        return (self.logs.sum() * x.shape[-1]).expand(x.shape[0])

    @torch.no_grad()
    def initialise(self, x: Tensor) -> None:
        """Set scale and bias so that `x` leaves with mean 0 and variance 1 per channel (variances floored at 1e-6)."""
        mean = x.mean(dim=(0, 2)).unsqueeze(1)
        variance = x.var(dim=(0, 2), unbiased=False).unsqueeze(1).clamp_min(1e-6)
        self.logs.copy_(-0.5 * variance.log())
        self.bias.copy_(-mean * torch.exp(self.logs))


class InvertibleConv(nn.Module):
    """Channels in `groups` groups of C / groups, mixed by one matrix W; log-det = log|det W| * C / groups * frames.

    The channels are reshaped to (2, C / groups, groups / 2) and permuted to (2, groups / 2, C / groups), so that each
    group is contiguous; W is applied, and the permutation undone.
    """

    def __init__(self, channels: int, groups: int = 4):
        super().__init__()
        if groups % 2 or channels % groups:
            raise ValueError(f"groups must be even and divide the {channels} channels, found {groups}")
        weight = torch.linalg.qr(torch.randn(groups, groups))[0]
        weight[:, 0] *= torch.linalg.det(weight).sign()  # a rotation: det = +1
        self.weight = nn.Parameter(weight)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self._mix(self.weight, x), self._logdet(x)

    def inverse(self, z: Tensor) -> tuple[Tensor, Tensor]:
        return self._mix(torch.linalg.inv_ex(self.weight).inverse, z), -self._logdet(z)

    def _mix(self, weight: Tensor, x: Tensor) -> Tensor:
        # bmm rather than matmul, which would copy x to make one tall product of it: four times slower on a CPU
        batch, channels, frames = x.shape
        x = x.view(batch, 2, -1, len(weight) // 2, frames).transpose(2, 3).reshape(batch, len(weight), -1)
        x = torch.bmm(weight.expand(batch, -1, -1), x)
        return x.view(batch, 2, len(weight) // 2, -1, frames).transpose(2, 3).reshape(batch, channels, frames)

    def _logdet(self, x: Tensor) -> Tensor:
        each = x.shape[1] // len(self.weight) * x.shape[2]
        return (torch.linalg.slogdet(self.weight.double())[1].to(x.dtype) * each).expand(x.shape[0])


class CouplingNet(nn.Module):
    """Gated convolutions h <- h + res(tanh(a) sigmoid(b)), (a, b) = conv(h); the skips are summed, then `end`.

    Shape:
        (batch, inputs, frames) -> (batch, outputs, frames); `end` starts at zero, so a new coupling is the identity.
    """

    def __init__(
        self, inputs: int, outputs: int, hidden: int, layers: int, kernel: int, dilation_rate: int, dropout: float
    ):
        super().__init__()
        if kernel % 2 == 0:
            raise ValueError(f"kernel must be odd to keep the number of frames, found {kernel}")
        self.hidden = hidden
        self.start = nn.Conv1d(inputs, hidden, 1)
        self.gates = nn.ModuleList()
        self.res_skips = nn.ModuleList()
        for layer in range(layers):
            dilation = dilation_rate**layer
            padding = dilation * (kernel - 1) // 2
            self.gates.append(nn.Conv1d(hidden, 2 * hidden, kernel, dilation=dilation, padding=padding))
            last = layer == layers - 1  # nothing reads its residual
            self.res_skips.append(nn.Conv1d(hidden, hidden if last else 2 * hidden, 1))
        self.dropout = nn.Dropout(dropout)
        self.end = nn.Conv1d(hidden, outputs, 1)
        nn.init.zeros_(self.end.weight)
        nn.init.zeros_(self.end.bias)  # type: ignore[arg-type]  # for torch a bias is optional

    def forward(self, x: Tensor) -> Tensor:
        h = self.start(x)
        total = 0.0
        for gate, res_skip in zip(self.gates, self.res_skips, strict=True):
            a, b = self.dropout(gate(h)).split(self.hidden, dim=1)
            out = res_skip(torch.tanh(a) * torch.sigmoid(b))
            if out.shape[1] > self.hidden:
                h = h + out[:, : self.hidden]
                out = out[:, self.hidden :]
            total = total + out
        return self.end(total)


class AffineCoupling(nn.Module):
    """x = (x0, x1) -> (x0, m + exp(logs) x1) with (m, logs) = net(x0); log-det = sum(logs).

    With `sigmoid_scale`, logs = log(1e-6 + sigmoid(logs + 2)), which bounds the scale by 1.
    """

    def __init__(self, channels: int, *, sigmoid_scale: bool = False, **net: Any):
        super().__init__()
        self.sigmoid_scale = sigmoid_scale
        self.net = CouplingNet(channels // 2, channels, **net)  # type: Any  # so are what a ModuleList holds

    def _shift_and_scale(self, x0: Tensor) -> tuple[Tensor, Tensor]:
        shift, logs = self.net(x0).chunk(2, dim=1)
        if self.sigmoid_scale:
            logs = torch.log(1e-6 + torch.sigmoid(logs + 2))
        return shift, logs

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x0, x1 = x.chunk(2, dim=1)
        shift, logs = self._shift_and_scale(x0)
        return torch.cat([x0, torch.addcmul(shift, torch.exp(logs), x1)], dim=1), logs.sum(dim=(1, 2))

    def inverse(self, z: Tensor) -> tuple[Tensor, Tensor]:
        z0, z1 = z.chunk(2, dim=1)
        shift, logs = self._shift_and_scale(z0)
        return torch.cat([z0, (z1 - shift) * torch.exp(-logs)], dim=1), -logs.sum(dim=(1, 2))


class Glow(nn.Module):
    """z = f_K(... f_1(squeeze(x))): `steps` times ActNorm, InvertibleConv, AffineCoupling; single scale.

    Args (see `flowsep.config.GlowConfig` for the paper's values):
        bins: channels of the feature, frequency bins with padding.
        squeeze: frames folded into one; channel = offset * bins + bin.
        steps, hidden, layers, kernel, dilation_rate, dropout, sigmoid_scale: see the layers.
    Shape:
        (batch, bins, frames) <-> (batch, bins, frames); frames a multiple of `squeeze`.
    Raises:
        ValueError: another number of bins, or frames that cannot be squeezed.
    """

    def __init__(
        self, *, bins: int, squeeze: int, steps: int, hidden: int, layers: int, kernel: int,
        dilation_rate: int, groups: int, dropout: float, sigmoid_scale: bool,
    ):  # fmt: skip
        super().__init__()
        self.bins, self.squeeze = bins, squeeze
        channels = bins * squeeze
        net = {"hidden": hidden, "layers": layers, "kernel": kernel, "dilation_rate": dilation_rate, "dropout": dropout}
        self.layers = nn.ModuleList()  # type: Any
        for _ in range(steps):
            self.layers.append(ActNorm(channels))
            self.layers.append(InvertibleConv(channels, groups))
            self.layers.append(AffineCoupling(channels, sigmoid_scale=sigmoid_scale, **net))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self._fold(x)
        logdet = x.new_zeros(x.shape[0])
        for layer in self.layers:
            x, change = layer(x)
            logdet = logdet + change
        return self._unfold(x), logdet

    def inverse(self, z: Tensor) -> tuple[Tensor, Tensor]:
        z = self._fold(z)
        logdet = z.new_zeros(z.shape[0])
        for layer in reversed(self.layers):
            z, change = layer.inverse(z)
            logdet = logdet + change
        return self._unfold(z), logdet

    @torch.no_grad()
    def initialise(self, x: Tensor) -> None:
        """Data-dependent initialisation: every ActNorm normalises what the layers before it make of `x`."""
        x = self._fold(x)
        for layer in self.layers:
            if isinstance(layer, ActNorm):
                layer.initialise(x)
            x, _ = layer(x)

    def _fold(self, x: Tensor) -> Tensor:
        batch, bins, frames = x.shape
        if bins != self.bins or frames % self.squeeze:
            raise ValueError(
                f"expected (batch, {self.bins} bins, frames divisible by {self.squeeze}), found {tuple(x.shape)}"
            )
        x = x.view(batch, bins, frames // self.squeeze, self.squeeze).permute(0, 3, 1, 2)
        return x.reshape(batch, self.squeeze * bins, frames // self.squeeze)

    def _unfold(self, x: Tensor) -> Tensor:
        batch, _, frames = x.shape
        x = x.view(batch, self.squeeze, self.bins, frames).permute(0, 2, 3, 1)
        return x.reshape(batch, self.bins, frames * self.squeeze)


def standard_normal_log_prob(z: Tensor) -> Tensor:
    """log N(z; 0, I) = -0.5 |z|^2 - 0.5 N log(2 pi) in nats, one per batch entry: (batch, ...) -> (batch,)."""
    z = z.flatten(1)
    return -0.5 * (z.square().sum(dim=1) + z.shape[1] * math.log(2 * math.pi))
