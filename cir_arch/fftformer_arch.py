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

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from torch import Tensor

from cir_arch.facts import NetworkFacts
from cir_arch.layers.argument_checks import check_channels
from cir_arch.layers.convolution import MapConv2d, to_image, to_map
from cir_arch.layers.frequency import (
    BLOCK,
    BlockTransform,
    Fusion,
    block_transform,
    doubling,
    frequency_blocks,
    halving,
)
from cir_arch.layers.padding import PaddingRule, checked_size, crop_to
from cir_arch.layers.patch_embedding import PatchEmbedding
from cir_arch.layers.unet import gdfn_widths
from cir_arch.network import RestorationNetwork, Weights, network
from cir_arch.state_dict import State, entry_count, ratio
from cir_host.errors import UserError

PADDING = PaddingRule(4 * BLOCK, "reflect")
"""Level 3, a quarter of the image's size, consists of whole blocks."""


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
    unused_parameters=r"reduce_chan_level2\.weight",
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

        chain = partial(
            frequency_blocks, expansion=ffn_expansion_factor, use_checkpoint=use_checkpoint
        )
        c1, c2, c3 = dim, 2 * dim, 4 * dim
        n1, n2, n3 = num_blocks[:3]
        self.patch_embed = PatchEmbedding(MapConv2d(inp_channels, c1, 3, padding=1, bias=False))
        self.encoder_level1 = chain(c1, n1, attends=False)
        self.down1_2 = halving(c1)
        self.encoder_level2 = chain(c2, n2, attends=False)
        self.down2_3 = halving(c2)
        self.encoder_level3 = chain(c3, n3, attends=False)
        self.decoder_level3 = chain(c3, n3, attends=True)
        self.up3_2 = doubling(c3)
        self.fuse2 = Fusion(c2)
        self.reduce_chan_level2 = MapConv2d(c3, c2, 1, bias=False)  # unused, in published files
        self.decoder_level2 = chain(c2, n2, attends=True)
        self.up2_1 = doubling(c2)
        self.fuse1 = Fusion(c1)
        self.decoder_level1 = chain(c1, n1, attends=True)
        self.refinement = chain(c1, num_refinement_blocks, attends=True)
        self.output = MapConv2d(c1, inp_channels, 3, padding=1, bias=False)

    @classmethod
    def arguments_from(cls, state: State) -> dict[str, Any] | None:
        """Read the arguments off a state dict; None if it is of another network."""
        if "fuse1.att_channel.ffn.fft" not in state or "fuse3.conv.weight" in state:
            return None  # DAIR's restorer has a fourth level
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
