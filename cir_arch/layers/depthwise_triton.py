"""Depthwise 3x3 convolutions of maps on GPUs, as Triton kernels.

cuDNN's depthwise kernels for maps (channels last) are slow, those for its gradients even more so.
These kernels read the map once, and the gated form also applies the gate of GDFN, so that neither
convolved half is stored: the backward pass recomputes them.

Import this module only where Triton is installed; :mod:`cir_arch.layers.convolution` does so.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

_PIXELS = 16
"""Pixels of a row per step of a program."""

_CHANNELS = 64
"""Channels per program."""

_PROGRAMS = 2048
"""About as many programs sum up the gradients of the weights, each over some rows."""


@triton.jit
def _tap(x, row, height, width, stride, columns, channels, inside, dy, dx):  # type: ignore[no-untyped-def]
    """Load the pixels that lie (dy, dx) from the given ones; zeros outside the map."""
    y = row % height + dy
    at = columns + dx
    valid = (y >= 0) & (y < height) & (at >= 0) & (at < width)
    place = ((row + dy) * width + at) * stride
    return tl.load(
        x + place[:, None] + channels[None, :], mask=valid[:, None] & inside[None, :], other=0.0
    ).to(tl.float32)


@triton.jit
def _convolve(  # type: ignore[no-untyped-def]
    x, weight, bias, row, height, width, stride, columns, channels, inside,
    FLIP: tl.constexpr, BIAS: tl.constexpr, PIXELS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    total = tl.zeros((PIXELS, CHANNELS), tl.float32)
    for tap in tl.static_range(9):
        dy, dx = tap // 3 - 1, tap % 3 - 1
        index = 8 - tap if FLIP else tap
        factor = tl.load(weight + channels * 9 + index, mask=inside, other=0.0).to(tl.float32)
        total += factor[None, :] * _tap(
            x, row, height, width, stride, columns, channels, inside, dy, dx
        )
    if BIAS:
        total += tl.load(bias + channels, mask=inside, other=0.0).to(tl.float32)[None, :]
    return total


@triton.jit
def _forward(  # type: ignore[no-untyped-def]
    x, weight, bias, out, height, width, channels,
    GATED: tl.constexpr, FLIP: tl.constexpr, BIAS: tl.constexpr,
    PIXELS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """Convolve one stretch of a row; ``channels`` are those of the output."""
    steps = tl.cdiv(width, PIXELS)
    row = (tl.program_id(0) // steps).to(tl.int64)
    columns = tl.program_id(0) % steps * PIXELS + tl.arange(0, PIXELS)
    own = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    inside = own < channels
    stride = 2 * channels if GATED else channels
    result = _convolve(
        x, weight, bias, row, height, width, stride, columns, own, inside,
        FLIP, BIAS, PIXELS, CHANNELS,
    )  # fmt: skip
    if GATED:
        value = _convolve(
            x + channels, weight + channels * 9, bias + channels, row, height, width, stride,
            columns, own, inside, FLIP, BIAS, PIXELS, CHANNELS,
        )  # fmt: skip
        result = result * 0.5 * (1 + tl.erf(result * 0.7071067811865476)) * value
    place = (row * width + columns) * channels
    tl.store(
        out + place[:, None] + own[None, :],
        result.to(out.dtype.element_ty),
        mask=(columns < width)[:, None] & inside[None, :],
    )


@triton.jit
def _backward(  # type: ignore[no-untyped-def]
    x, weight, bias, grad, grad_conv, sums, rows, height, width, channels, rows_each,
    GATED: tl.constexpr, BIAS: tl.constexpr, PIXELS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """Sum the gradients of weights and biases over some rows, (10, channels of x) per program.

    With a gate, also compute the gradient of the convolved map.
    """
    own = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    inside = own < channels
    stride = 2 * channels if GATED else channels
    taps = tl.arange(0, 16)
    total = tl.zeros((16, CHANNELS), tl.float32)
    gate_total = tl.zeros((16, CHANNELS), tl.float32)
    first = tl.program_id(0).to(tl.int64) * rows_each
    for number in range(tl.minimum(rows_each, rows - first)):
        row = first + number
        for start in range(0, width, PIXELS):
            columns = start + tl.arange(0, PIXELS)
            here = (columns < width)[:, None] & inside[None, :]
            place = ((row * width + columns) * channels)[:, None] + own[None, :]
            g = tl.load(grad + place, mask=here, other=0.0).to(tl.float32)
            if GATED:
                gate = _convolve(
                    x, weight, bias, row, height, width, stride, columns, own, inside,
                    False, BIAS, PIXELS, CHANNELS,
                )  # fmt: skip
                value = _convolve(
                    x + channels, weight + channels * 9, bias + channels, row, height, width,
                    stride, columns, own, inside, False, BIAS, PIXELS, CHANNELS,
                )  # fmt: skip
                phi = 0.5 * (1 + tl.erf(gate * 0.7071067811865476))
                slope = phi + gate * tl.exp(-0.5 * gate * gate) * 0.3989422804014327
                of_gate = g * value * slope
                g = g * gate * phi
                both = ((row * width + columns) * stride)[:, None] + own[None, :]
                kind = grad_conv.dtype.element_ty
                tl.store(grad_conv + both, of_gate.to(kind), mask=here)
                tl.store(grad_conv + both + channels, g.to(kind), mask=here)
                for tap in tl.static_range(9):
                    near = _tap(
                        x, row, height, width, stride, columns, own, inside,
                        tap // 3 - 1, tap % 3 - 1,
                    )  # fmt: skip
                    summed = tl.sum(near * of_gate, axis=0)
                    gate_total += tl.where(taps[:, None] == tap, summed[None, :], 0.0)
                summed = tl.sum(of_gate, axis=0)
                gate_total += tl.where(taps[:, None] == 9, summed[None, :], 0.0)
            base = x + channels if GATED else x
            for tap in tl.static_range(9):
                near = _tap(
                    base, row, height, width, stride, columns, own, inside,
                    tap // 3 - 1, tap % 3 - 1,
                )  # fmt: skip
                summed = tl.sum(near * g, axis=0)
                total += tl.where(taps[:, None] == tap, summed[None, :], 0.0)
            summed = tl.sum(g, axis=0)
            total += tl.where(taps[:, None] == 9, summed[None, :], 0.0)
    place = (tl.program_id(0) * 10 + taps)[:, None] * stride + own[None, :]
    kept = (taps < 10)[:, None] & inside[None, :]
    if GATED:
        tl.store(sums + place, gate_total, mask=kept)
        tl.store(sums + place + channels, total, mask=kept)
    else:
        tl.store(sums + place, total, mask=kept)


def _run(x: Tensor, weight: Tensor, bias: Tensor | None, gated: bool, flip: bool = False) -> Tensor:
    x = x.contiguous()
    batch, height, width, stride = x.shape
    channels = stride // 2 if gated else stride
    out = x.new_empty(batch, height, width, channels)
    grid = (batch * height * triton.cdiv(width, _PIXELS), triton.cdiv(channels, _CHANNELS))
    _forward[grid](
        x, weight.contiguous(), weight if bias is None else bias, out, height, width, channels,
        GATED=gated, FLIP=flip, BIAS=bias is not None, PIXELS=_PIXELS, CHANNELS=_CHANNELS,
    )  # fmt: skip
    return out


@torch.library.custom_op("cir::depthwise3x3", mutates_args=())
def depthwise3x3(x: Tensor, weight: Tensor, bias: Tensor | None, gated: bool) -> Tensor:
    """Convolve each channel of a map with its 3x3 kernel, zero padding 1.

    Args:
        x: (B, H, W, C).
        weight: (C, 1, 3, 3).
        bias: (C,) or None.
        gated: Return GELU(first half of the channels) * second half instead, in which C is even.

    Returns:
        (B, H, W, C) or (B, H, W, C / 2), in the dtype of ``x``; sums are in float32.
    """
    return _run(x, weight, bias, gated)


@depthwise3x3.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor | None, gated: bool) -> Tensor:
    channels = x.shape[-1] // 2 if gated else x.shape[-1]
    return x.new_empty(*x.shape[:-1], channels)


@torch.library.custom_op("cir::depthwise3x3_backward", mutates_args=())
def _gradients(
    grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, gated: bool
) -> tuple[Tensor, Tensor]:
    """Return the gradient of x, and (10, C): those of the nine weights and of the bias."""
    x, grad = x.contiguous(), grad.contiguous()
    batch, height, width, stride = x.shape
    channels = grad.shape[-1]
    rows = batch * height
    blocks = triton.cdiv(channels, _CHANNELS)
    each = max(1, triton.cdiv(rows * blocks, _PROGRAMS))
    programs = triton.cdiv(rows, each)
    sums = torch.empty(programs, 10, stride, device=x.device)
    grad_conv = torch.empty_like(x) if gated else grad
    _backward[(programs, blocks)](
        x, weight.contiguous(), weight if bias is None else bias, grad, grad_conv, sums,
        rows, height, width, channels, each,
        GATED=gated, BIAS=bias is not None, PIXELS=_PIXELS, CHANNELS=_CHANNELS,
    )  # fmt: skip
    return _run(grad_conv, weight, None, gated=False, flip=True), sums.sum(0)


@_gradients.register_fake
def _(
    grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, gated: bool
) -> tuple[Tensor, Tensor]:
    return torch.empty_like(x), x.new_empty(10, x.shape[-1], dtype=torch.float32)


def _keep(ctx: Any, inputs: Any, output: Tensor) -> None:
    x, weight, bias, ctx.gated = inputs
    ctx.save_for_backward(x, weight, bias)


def _differentiate(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor | None, None]:
    x, weight, bias = ctx.saved_tensors
    of_x, sums = _gradients(grad, x, weight, bias, ctx.gated)
    of_weight = sums[:9].t().reshape(weight.shape).to(weight.dtype)
    return of_x, of_weight, None if bias is None else sums[9].to(bias.dtype), None


depthwise3x3.register_autograd(_differentiate, setup_context=_keep)
