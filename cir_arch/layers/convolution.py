"""Convolutions of feature maps (B, H, W, C)."""

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_gpu_kernel: Callable[[Tensor, Tensor, Tensor | None, bool], Tensor] | None = None
"""``depthwise3x3`` of :mod:`cir_arch.layers.depthwise_triton`, once a layer is on a GPU."""


def to_image(x: Tensor) -> Tensor:
    """View a map (B, H, W, C) as (B, C, H, W). Copies nothing."""
    return x.permute(0, 3, 1, 2)


def to_map(x: Tensor) -> Tensor:
    """View (B, C, H, W) as a map (B, H, W, C). Copies nothing."""
    return x.permute(0, 2, 3, 1)


class MapConv2d(nn.Conv2d):
    """``Conv2d`` on maps (B, H, W, C), same parameters; a 1x1 kernel is one matrix product."""

    def forward(self, x: Tensor) -> Tensor:
        """Convolve (B, H, W, C) to (B, H', W', C')."""
        if self.kernel_size == (1, 1):
            return F.linear(x, self.weight.flatten(1), self.bias)
        return to_map(super().forward(to_image(x)))


class DepthwiseConv2d(MapConv2d):
    """Depthwise 3x3 convolution with zero padding 1, of maps (B, H, W, C).

    On a GPU with Triton it runs as a kernel of ours, several times faster than cuDNN's.
    """

    def __init__(self, channels: int, bias: bool) -> None:
        super().__init__(channels, channels, 3, padding=1, groups=channels, bias=bias)
        _load_gpu_kernel(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve (B, H, W, C) to the same shape."""
        if not self.has_kernel(x):
            return super().forward(x)
        return _gpu_kernel(x, self.weight, self.bias, False)

    def has_kernel(self, x: Tensor) -> bool:
        """Return whether the kernel can run on a map."""
        exported = torch.jit.is_tracing() or torch.compiler.is_exporting()
        return _gpu_kernel is not None and x.is_cuda and not exported

    def gated(self, x: Tensor) -> Tensor:
        """Convolve (B, H, W, 2 C) and return GELU(first half) * second half, (B, H, W, C).

        Needs the kernel.
        """
        return _gpu_kernel(x, self.weight, self.bias, True)

    def _apply(self, *arguments: Any, **options: Any) -> "DepthwiseConv2d":
        """Move the layer to another device or dtype."""
        super()._apply(*arguments, **options)
        _load_gpu_kernel(self.weight)
        return self


def _load_gpu_kernel(weight: Tensor) -> None:
    """Load the kernel for layers on a GPU; not in ``forward``, where compilers would trace it."""
    global _gpu_kernel
    known = hasattr(torch.compiler, "is_exporting") and find_spec("triton") is not None
    if _gpu_kernel is None and weight.is_cuda and known:
        from cir_arch.layers.depthwise_triton import depthwise3x3

        _gpu_kernel = depthwise3x3

