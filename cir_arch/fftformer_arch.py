"""FFTformer, a U-Net of transformers whose attention and gates act on frequencies.

Kong et al., Efficient Frequency Domain-based Transformers for High-Quality Image Deblurring, CVPR
2023, https://arxiv.org/abs/2211.12250. The authors' release (no licence stated) is
https://github.com/kkkls/FFTformer; its state dicts load here unchanged. With
``num_blocks=(4, 4, 8)`` it is the base of the SYU-HnVLab team's network (:mod:`fftformer_qfem_arch
<cir_arch.fftformer_qfem_arch>`).

Computes the same function as the release. Differences:

- Any image size from 1 x 1 on works. The release needs multiples of 32; its test script pads.
- The Fourier transforms of 8 x 8 blocks are products with one 64 x 64 matrix. On a CPU this takes a
  fraction of the time of ``torch.fft``, and compilers and exporters know it.
- In the feed-forward network the transform comes before the 1x1 convolution, where the map has a
  sixth of the channels. As one acts on pixels and the other on channels, they can change places.
- Half-precision weights work: the transforms are computed in float32 and cast back. The release
  casts in one direction only.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cir_arch.facts import NetworkFacts
from cir_arch.layers.bands import Band, bands, in_linked_bands, joined
from cir_arch.layers.blocks import BlockChain
from cir_arch.layers.convolution import MapConv2d, depthwise_conv, to_image, to_map
from cir_arch.layers.feed_forward import gated_gelu
from cir_arch.layers.groups import check_channels
from cir_arch.layers.norm import LayerNorm
from cir_arch.layers.padding import PaddingRule, checked_size, crop_to
from cir_arch.layers.patch_embedding import PatchEmbedding
from cir_arch.layers.precision import without_autocast
from cir_arch.layers.unet import gdfn_widths
from cir_arch.network import RestorationNetwork, Weights, network
from cir_arch.state_dict import State, entry_count, ratio
from cir_host.errors import UserError

BLOCK = 8
"""Edge of the blocks that are transformed; they begin at the map's corner."""
PADDING = PaddingRule(4 * BLOCK, "reflect")
"""Level 3, a quarter of the image's size, consists of whole blocks."""

_OWN = 4
"""Frequencies (u, v) whose mirror image (-u, -v) they are themselves: both 0 or 4."""
_REAL = _OWN + 30
"""Of 64 frequencies, those that a real block needs: itself or its mirror image."""


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


class Resampling(nn.Module):
    """Bilinear resampling without antialiasing (pixel centres), then a 3x3 convolution."""

    def __init__(self, resample: nn.Module, channels: int, out_channels: int) -> None:
        super().__init__()
        conv = nn.Conv2d(channels, out_channels, 3, padding=1, bias=False)
        self.body = nn.Sequential(resample, conv)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to (B, H', W', C')."""
        return to_map(self.body(to_image(x)))


def _down(channels: int) -> Resampling:
    """Build the step to the level below; bilinear to half the size is the mean of 2 x 2 pixels."""
    return Resampling(nn.AvgPool2d(2), channels, 2 * channels)


def _up(channels: int) -> Resampling:
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


def _spandrel_has(arguments: Mapping[str, Any]) -> bool:
    """Tell which arguments spandrel 0.4.2 has: not every factor, and at least one refinement."""
    refines = arguments.get("num_refinement_blocks", 1) > 0
    return refines and "ffn_expansion_factor" not in arguments


@network(
    paper="[Kong et al., CVPR 2023](https://arxiv.org/abs/2211.12250)",
    gmacs=48.51,
    small={
        "dim": 6,
        "num_blocks": (1, 1, 1),
        "num_refinement_blocks": 1,
        "ffn_expansion_factor": 2.5,
    },
    weights=(
        Weights(
            "https://github.com/kkkls/FFTformer (pretrain_model)",
            "fftformer_GoPro.pth; another for RealBlur on Google Drive",
            "state dict",
            "no licence stated",
            "motion blur, not JPEG",
        ),
    ),
    in_spandrel=_spandrel_has,
    idle_parameters=r"reduce_chan_level2\.weight",
)
class FFTformer(RestorationNetwork):
    """Three levels; only the decoder attends. Predicts the difference to the image.

    The defaults give the published network. The published checkpoints hold one convolution,
    ``reduce_chan_level2``, that ``forward`` never uses; so does this network. Distributed training
    needs ``find_unused_parameters: true``.

    Args:
        inp_channels: Channels of the input image.
        out_channels: Channels of the output image: None, or the same number.
        dim: Channels of level 1; the levels below have 2 and 4 times as many.
        num_blocks: Blocks of level 1, 2 and 3; each decoder level mirrors its encoder level. A
            fourth number, which the authors' options have, is ignored as in their code.
        num_refinement_blocks: Blocks after the decoder.
        ffn_expansion_factor: Hidden over outer channels of the feed-forward networks.
        bias: False; published networks have no biases in these convolutions.
        use_checkpoint: Gradient checkpointing: recompute each block in the backward pass.

    Raises:
        UserError: If an argument has another number of values, or a value that the network cannot
            have; the message names it.
    """

    def __init__(
        self,
        inp_channels: int = 3,
        out_channels: int | None = None,
        dim: int = 48,
        num_blocks: Sequence[int] = (6, 6, 12),
        num_refinement_blocks: int = 4,
        ffn_expansion_factor: float = 3,
        bias: bool = False,
        use_checkpoint: bool = False,
    ) -> None:
        super().__init__()
        _check(inp_channels, out_channels, num_blocks, bias)
        check_channels(dim=dim, ffn_expansion_factor=int(dim * ffn_expansion_factor))
        self.inp_channels = inp_channels

        def chain(channels: int, count: int, *, attends: bool) -> BlockChain:
            blocks = (
                FrequencyBlock(channels, ffn_expansion_factor, attends=attends)
                for _ in range(count)
            )
            return BlockChain(*blocks, use_checkpoint=use_checkpoint)

        c1, c2, c3 = dim, 2 * dim, 4 * dim
        n1, n2, n3 = num_blocks[:3]
        self.patch_embed = PatchEmbedding(MapConv2d(inp_channels, c1, 3, padding=1, bias=False))
        self.encoder_level1 = chain(c1, n1, attends=False)
        self.down1_2 = _down(c1)
        self.encoder_level2 = chain(c2, n2, attends=False)
        self.down2_3 = _down(c2)
        self.encoder_level3 = chain(c3, n3, attends=False)
        self.decoder_level3 = chain(c3, n3, attends=True)
        self.up3_2 = _up(c3)
        self.fuse2 = Fusion(c2)
        self.reduce_chan_level2 = MapConv2d(c3, c2, 1, bias=False)  # unused, in published files
        self.decoder_level2 = chain(c2, n2, attends=True)
        self.up2_1 = _up(c2)
        self.fuse1 = Fusion(c1)
        self.decoder_level1 = chain(c1, n1, attends=True)
        self.refinement = chain(c1, num_refinement_blocks, attends=True)
        self.output = MapConv2d(c1, inp_channels, 3, padding=1, bias=False)

    @classmethod
    def arguments_from(cls, state: State) -> dict[str, Any] | None:
        """Read the arguments off a state dict; None if it is of another network."""
        if "fuse1.att_channel.ffn.fft" not in state:
            return None
        levels = {name: value for name, value in state.items() if not name.startswith("fuse")}
        dim, inp_channels = state["patch_embed.proj.weight"].shape[:2]
        return {
            # out_channels is that of inp_channels; bias is always False
            "inp_channels": inp_channels,
            "dim": dim,
            "num_blocks": [entry_count(state, f"encoder_level{level}.") for level in (1, 2, 3)],
            "num_refinement_blocks": entry_count(state, "refinement."),
            "ffn_expansion_factor": ratio(gdfn_widths(levels), 3.0),
        }

    @property
    def facts(self) -> NetworkFacts:
        """What tools need to know about this network.

        Nothing depends on the whole image, but each block carries information across its blocks of
        8 to 32 image pixels: the radius is too large for exact tiles.
        """
        return NetworkFacts(
            size_multiple=PADDING.multiple,
            min_size=1,
            scale=1,
            halo=None,
            in_channels=self.inp_channels,
            precisions=frozenset({"fp32", "bf16", "fp16"}),
            padding=PADDING,
        )

    def forward(self, x: Tensor) -> Any:
        """Restore images (B, C, H, W), RGB in [0, 1]; same shape, not clamped.

        Sides that are not multiples of 32 are padded at bottom and right by reflection (replication
        where a side is too short), and the result is cropped.

        Raises:
            UserError: If the number of channels is not the network's.
        """
        return self._restored(x)[0]

    def _restored(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the restored images and the features of the encoder's level 1, (B, H', W', C)."""
        height, width = checked_size(x, self.inp_channels, "inp_channels")
        padded = PADDING.pad(x)
        transform = block_transform(x)
        features = self.encoder_level1(self.patch_embed(to_map(padded)), transform)
        out = padded + to_image(self._residual(features, transform))
        return crop_to(out, height, width), features

    def _residual(self, e1: Tensor, transform: BlockTransform) -> Tensor:
        """Map the features of level 1 to the difference (B, H, W, C) to add to the image."""
        e2 = self.encoder_level2(self.down1_2(e1), transform)
        y = self.encoder_level3(self.down2_3(e2), transform)
        y = self.decoder_level3(y, transform)
        y = self.fuse2(self.up3_2(y), e2, transform)
        y = self.decoder_level2(y, transform)
        y = self.fuse1(self.up2_1(y), e1, transform)
        y = self.refinement(self.decoder_level1(y, transform), transform)
        out: Tensor = self.output(y)
        return out


def _check(
    inp_channels: int, out_channels: int | None, num_blocks: Sequence[int], bias: bool
) -> None:
    if out_channels not in (None, inp_channels):
        raise UserError(
            f"out_channels: {out_channels} channels cannot be added to an image of inp_channels"
            f" ({inp_channels}); give the same number, or leave it out"
        )
    if len(num_blocks) not in (3, 4):
        raise UserError(
            f"num_blocks: {list(num_blocks)} has {len(num_blocks)} numbers; give three, for level"
            " 1, 2 and 3 (a fourth is ignored)"
        )
    if bias:
        raise UserError(
            "bias: True is not supported, as no published network has these biases; give False"
        )
