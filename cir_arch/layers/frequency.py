"""Blocks that act on the Fourier transforms of 8 x 8 pixels, and a U-Net's steps between them.

Kong et al., Efficient Frequency Domain-based Transformers for High-Quality Image Deblurring, CVPR
2023, https://arxiv.org/abs/2211.12250. Maps are (B, H, W, C); height and width are multiples of 8.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cir_arch.layers.bands import Band, bands, in_linked_bands, joined
from cir_arch.layers.blocks import BlockChain
from cir_arch.layers.convolution import MapConv2d, depthwise_conv, to_image, to_map
from cir_arch.layers.feed_forward import gated_gelu
from cir_arch.layers.norm import LayerNorm
from cir_arch.layers.precision import without_autocast

BLOCK = 8
"""Edge of the blocks that are transformed; they begin at the map's corner."""

_OWN = 4
"""How many frequencies (u, v) equal their mirror image (-u, -v): u and v are 0 or 4."""
_REAL = _OWN + 30
"""How many of the 64 frequencies determine a real block: one of each pair of mirror images."""


class BlockTransform(NamedTuple):
    """The Fourier transform of real 8 x 8 blocks, as 64 real numbers.

    They are the real parts at 4 + 30 frequencies, in the order of :func:`_halved`, then minus the
    imaginary parts at the last 30; all divided by 8.
    """

    analysis: Tensor
    """(64, 64): number, pixel."""
    synthesis: Tensor
    """(64, 64): pixel, number."""

    def of(self, x: Tensor) -> Tensor:
        """Transform the blocks of a map, (B, H, W, C) to (B H W / 64, 64, C), at least float32."""
        height, width, channels = x.shape[1:]
        shape = (-1, height // BLOCK, BLOCK, width // BLOCK, BLOCK, channels)
        blocks = x.reshape(shape).transpose(2, 3).reshape(-1, BLOCK * BLOCK, channels)
        with without_autocast(x):
            return self.analysis @ blocks.to(self.analysis.dtype)


def block_transform(x: Tensor) -> BlockTransform:
    """Build the matrices on the device of ``x``, in its type, but at least in float32."""
    dtype = torch.promote_types(x.dtype, torch.float32)
    side = torch.arange(BLOCK, dtype=dtype, device=x.device)
    u, v = side[:, None], side[: BLOCK // 2 + 1]
    turns = u[..., None, None] * side[:, None] + v[:, None, None] * side  # (u, v, row, column)
    # whole turns are left out, so that float32 keeps all digits
    angles = (turns % BLOCK) * (2 * math.pi / BLOCK)
    cosines, sines = (_halved(wave).flatten(1) for wave in (angles.cos(), angles.sin()))
    analysis = torch.cat((cosines, sines[_OWN:])) / BLOCK
    mirrored = torch.cat((analysis[:_OWN], 2 * analysis[_OWN:]))  # each stands for its mirror image
    return BlockTransform(analysis, mirrored.mT)


def _halved(spectrum: Tensor) -> Tensor:
    """Choose the frequencies of a half spectrum (8, 5, ...) that a real block needs, (34, ...)."""
    half = BLOCK // 2
    own = spectrum[::half, ::half].flatten(0, 1)
    ends, others = spectrum[1:half, ::half].flatten(0, 1), spectrum[:, 1:half].flatten(0, 1)
    return torch.cat((own, ends, others))


def from_blocks(blocks: Tensor, like: Tensor) -> Tensor:
    """Put blocks (N, 64, C') into maps as high and wide as ``like``, (B', H, W, C')."""
    height, width, channels = *like.shape[1:3], blocks.shape[-1]
    shape = (-1, height // BLOCK, width // BLOCK, BLOCK, BLOCK, channels)
    return blocks.reshape(shape).transpose(2, 3).reshape(-1, height, width, channels)


class DFFN(nn.Module):
    """Discriminative frequency feed-forward network (eq. 8 to 10): GDFN with a frequency gate.

    ``fft`` has one factor per channel and frequency of the half spectrum, (2 h, 1, 1, 8, 5), rows
    first. At horizontal frequency 0 and 4 the half spectrum holds each frequency and its mirror
    image; their factors count with their mean, which is what an inverse real transform makes of
    them.
    """

    def __init__(self, channels: int, expansion: float) -> None:
        super().__init__()
        hidden = int(channels * expansion)
        self.project_in = MapConv2d(channels, 2 * hidden, 1, bias=False)
        self.dwconv = depthwise_conv(2 * hidden, bias=False)
        self.fft = nn.Parameter(torch.ones(2 * hidden, 1, 1, BLOCK, BLOCK // 2 + 1))
        self.project_out = MapConv2d(hidden, channels, 1, bias=False)

    def forward(self, x: Tensor, transform: BlockTransform) -> Tensor:
        """Map (B, H, W, C) to the same shape."""
        gate = self._gate().to(transform.analysis.dtype)
        return in_linked_bands(
            lambda rows: self._gated(rows, gate, transform), self._of_rows, x, multiple=BLOCK
        )

    def _gate(self) -> Tensor:
        """Return the factors of the transform's 64 numbers, (2, 1, 64, h)."""
        spectrum = self.fft[:, 0, 0].permute(1, 2, 0)
        half = BLOCK // 2
        mirrored = torch.cat((spectrum[:1], spectrum[1:].flip(0)))[:, ::half]
        ends = (spectrum[:, ::half] + mirrored) / 2
        needed = _halved(torch.cat((ends[:, :1], spectrum[:, 1:half], ends[:, 1:]), dim=1))
        gate = torch.cat((needed, needed[_OWN:]))
        return gate.reshape(BLOCK * BLOCK, 2, 1, -1).permute(1, 2, 0, 3)

    def _gated(self, x: Tensor, gate: Tensor, transform: BlockTransform) -> Tensor:
        """Return the hidden channels behind the gate, both halves as one batch (2 B, H, W, h).

        Apart from each other in memory, because GELU is slow on slices.
        """
        weight = self.project_in.weight.view(2, -1, x.shape[-1]).mT
        projected = transform.of(x).to(x.dtype).flatten(0, 1) @ weight
        numbers = projected.reshape(2, -1, *gate.shape[2:]).to(gate.dtype) * gate
        with without_autocast(x):
            blocks = transform.synthesis @ numbers.flatten(0, 1)
        return from_blocks(blocks.to(projected.dtype), x)

    def _of_rows(self, halves: Tensor) -> Tensor:
        gate, value = (
            to_map(F.conv2d(to_image(half), weight, padding=1, groups=len(weight)))
            for half, weight in zip(halves.chunk(2), self.dwconv.weight.chunk(2), strict=True)
        )
        out: Tensor = self.project_out(gated_gelu(gate, value))
        return out


class FSAS(nn.Module):
    """Frequency domain-based self-attention solver (eq. 4 to 7).

    Queries and keys of each channel are convolved, circularly in 8 x 8 blocks. The result, normed,
    is the factor of the values. (The paper speaks of a correlation; the release, which counts,
    multiplies the transforms without conjugating one.)
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.to_hidden = MapConv2d(channels, 6 * channels, 1, bias=False)
        self.to_hidden_dw = depthwise_conv(6 * channels, bias=False)
        self.norm = LayerNorm(2 * channels)
        self.project_out = MapConv2d(2 * channels, channels, 1, bias=False)

    def forward(self, x: Tensor, transform: BlockTransform) -> Tensor:
        """Map (B, H, W, C) to the same shape."""
        parts = bands(x, halo=1, multiple=BLOCK)
        return joined(lambda band: self._of_band(band, transform), parts)

    def _of_band(self, band: Band, transform: BlockTransform) -> Tensor:
        hidden = band.own(self.to_hidden_dw(self.to_hidden(band.rows)))
        q, k, v = hidden.chunk(3, dim=-1)
        weights = from_blocks(self._normed(_convolved(q, k, transform)).to(v.dtype), v)
        out: Tensor = self.project_out(v * weights)
        return out

    def _normed(self, blocks: Tensor) -> Tensor:
        """Normalise the channels in float32: float16 may not hold sums of 64 products."""
        norm = self.norm.body
        weight, bias = norm.weight.to(blocks.dtype), norm.bias.to(blocks.dtype)
        return F.layer_norm(blocks, norm.normalized_shape, weight, bias, norm.eps)


def _convolved(q: Tensor, k: Tensor, transform: BlockTransform) -> Tensor:
    """Convolve the blocks of two maps (B, H, W, C), circularly; (B H W / 64, 64, C)."""
    (own_q, real_q, imag_q), (own_k, real_k, imag_k) = (
        (numbers[:, :_OWN], numbers[:, _OWN:_REAL], numbers[:, _REAL:])
        for numbers in (transform.of(q), transform.of(k))
    )
    # what is stored as imaginary parts has the opposite sign, in both factors and in the product
    real = torch.addcmul(real_q * real_k, imag_q, imag_k, value=-1)
    imag = torch.addcmul(real_q * imag_k, imag_q, real_k)
    with without_autocast(q):
        # both transforms are divided by 8, their product should be, too
        return (BLOCK * transform.synthesis) @ torch.cat((own_q * own_k, real, imag), dim=1)


class FrequencyBlock(nn.Module):
    """FSAS, where it attends, then DFFN, each behind a layer norm and added to its input."""

    def __init__(self, channels: int, expansion: float, *, attends: bool) -> None:
        super().__init__()
        self.attends = attends
        if attends:
            self.norm1 = LayerNorm(channels)
            self.attn = FSAS(channels)
        self.norm2 = LayerNorm(channels)
        self.ffn = DFFN(channels, expansion)

    def forward(self, x: Tensor, transform: BlockTransform) -> Tensor:
        """Map (B, H, W, C) to the same shape."""
        if self.attends:
            x = x + self.attn(self.norm1(x), transform)
        out: Tensor = x + self.ffn(self.norm2(x), transform)
        return out


def frequency_blocks(
    channels: int, count: int, expansion: float, *, attends: bool, use_checkpoint: bool
) -> BlockChain:
    """Build blocks that run one after the other."""
    blocks = (FrequencyBlock(channels, expansion, attends=attends) for _ in range(count))
    return BlockChain(*blocks, use_checkpoint=use_checkpoint)


class Resampling(nn.Module):
    """Bilinear resampling without antialiasing (pixel centres), then a 3x3 convolution."""

    def __init__(self, resample: nn.Module, channels: int, out_channels: int) -> None:
        super().__init__()
        conv = nn.Conv2d(channels, out_channels, 3, padding=1, bias=False)
        self.body = nn.Sequential(resample, conv)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to (B, H', W', C')."""
        return to_map(self.body(to_image(x)))


def halving(channels: int) -> Resampling:
    """Build the step to the level below; bilinear to half the size is the mean of 2 x 2 pixels."""
    return Resampling(nn.AvgPool2d(2), channels, 2 * channels)


def doubling(channels: int) -> Resampling:
    """Build the step to the level above."""
    bilinear = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False)
    return Resampling(bilinear, channels, channels // 2)


class Fusion(nn.Module):
    """Joins the features of decoder and encoder: a block without attention on both together.

    The expansion of its feed-forward network is 2.66, whatever that of the network.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = MapConv2d(2 * channels, 2 * channels, 1)
        self.att_channel = FrequencyBlock(2 * channels, 2.66, attends=False)
        self.conv2 = MapConv2d(2 * channels, 2 * channels, 1)

    def forward(self, decoded: Tensor, encoded: Tensor, transform: BlockTransform) -> Tensor:
        """Join two maps (B, H, W, C) to one of the same shape."""
        x = self.att_channel(self.conv(torch.cat((decoded, encoded), dim=-1)), transform)
        first, second = self.conv2(x).chunk(2, dim=-1)
        out: Tensor = first + second
        return out
