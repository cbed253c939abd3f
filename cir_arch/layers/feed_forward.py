"""Feed-forward networks on maps or tokens (..., C)."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from cir_arch.layers.bands import in_bands
from cir_arch.layers.convolution import MapConv2d, depthwise_conv, to_image, to_map


class MLP(nn.Module):
    """Linear, exact GELU, linear."""

    def __init__(self, channels: int, hidden: int, out_channels: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels, hidden)
        self.fc2 = nn.Linear(hidden, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., C) to (..., C')."""
        out: Tensor = self.fc2(F.gelu(self.fc1(x)))
        return out


class GDFN(nn.Module):
    """Gated-Dconv feed-forward network (Zamir et al., Restormer, CVPR 2022, eq. 2).

    The hidden width is ``channels * expansion``, rounded down, unless it is given.
    """

    def __init__(
        self, channels: int, expansion: float, bias: bool, hidden: int | None = None
    ) -> None:
        super().__init__()
        if hidden is None:
            hidden = int(channels * expansion)
        self.project_in = MapConv2d(channels, 2 * hidden, 1, bias=bias)
        self.dwconv = depthwise_conv(2 * hidden, bias)
        self.project_out = MapConv2d(hidden, channels, 1, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to the same shape."""
        return in_bands(self._of_rows, x, halo=1)

    def _of_rows(self, x: Tensor) -> Tensor:
        gate, value = (self._hidden(x, half) for half in range(2))
        out: Tensor = self.project_out(gated_gelu(gate, value))
        return out

    def _hidden(self, x: Tensor, half: int) -> Tensor:
        """Compute one half of the hidden channels. Two tensors, because GELU is slow on slices."""
        weight, bias = _half(self.project_in, half)
        y = to_image(F.linear(x, weight.flatten(1), bias))
        weight, bias = _half(self.dwconv, half)
        return to_map(F.conv2d(y, weight, bias, padding=1, groups=y.shape[1]))


def _half(layer: nn.Conv2d, half: int) -> tuple[Tensor, Tensor | None]:
    bias = None if layer.bias is None else layer.bias.chunk(2)[half]
    return layer.weight.chunk(2)[half], bias


def gated_gelu(gate: Tensor, value: Tensor) -> Tensor:
    """Return GELU(gate) * value; keeps nothing but its two inputs for the backward pass."""
    out: Tensor = _GatedGELU.apply(gate, value)
    return out


class _GatedGELU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate: Tensor, value: Tensor) -> Tensor:
        ctx.save_for_backward(gate, value)
        return F.gelu(gate).mul_(value)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        gate, value = ctx.saved_tensors
        return torch.ops.aten.gelu_backward(grad * value, gate), F.gelu(gate).mul_(grad)
