"""Restormer, a U-Net of transformer blocks that attend between channels.

Zamir et al., Restormer: Efficient Transformer for High-Resolution Image Restoration, CVPR 2022,
https://arxiv.org/abs/2111.09881. The authors' release (non-commercial) is
https://github.com/swz30/Restormer; its weights load here unchanged, but those for dual-pixel
defocus deblurring, which has two images as its input.

Computes the same function as the release. Differences:

- Any image size from 1 x 1 on works. The release needs multiples of 8.
- Convolutions have no biases. The release can have them, and no published weights do.
"""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Literal

from torch import nn

from cir_arch.facts import NetworkFacts
from cir_arch.layers.convolution import MapConv2d
from cir_arch.layers.norm import BiasFreeLayerNorm, LayerNorm
from cir_arch.layers.patch_embedding import PatchEmbedding
from cir_arch.layers.transformer_block import TransformerBlock
from cir_arch.layers.unet import PADDING, UNet, UNetSizes, gdfn_widths, unet_arguments
from cir_arch.network import RestorationNetwork, Weights, network
from cir_arch.state_dict import State, ratio
from cir_host.errors import UserError

NORMS: dict[str, Callable[[int], nn.Module]] = {
    "WithBias": LayerNorm,
    "BiasFree": BiasFreeLayerNorm,
}
"""Layer norms by ``LayerNorm_type``."""


@network(
    paper="[Zamir et al., CVPR 2022](https://arxiv.org/abs/2111.09881)",
    gmacs=38.72,
    small={"dim": 8, "num_blocks": (1, 1, 1, 1), "num_refinement_blocks": 1},
    weights=(
        Weights(
            "https://github.com/swz30/Restormer (README of each task)",
            "one file per task and noise level",
            "params",
            "academic, non-commercial",
            "rain, motion blur, defocus blur, noise; not JPEG",
        ),
    ),
)
class Restormer(UNet, RestorationNetwork):
    """U-Net whose blocks are MDTA and GDFN, and which predicts the difference to the image.

    The defaults give the published network for deraining and deblurring; denoising has
    ``LayerNorm_type="BiasFree"``, and in grey ``inp_channels=1, out_channels=1`` too.

    Args:
        inp_channels: Channels of the input image.
        out_channels: Channels of the output image, which are as many; None for ``inp_channels``.
        dim: Channels of level 1; the levels below have 2, 4 and 8 times as many.
        num_blocks: Blocks of level 1, 2, 3 and the latent level; each decoder level mirrors its
            encoder level.
        num_refinement_blocks: Blocks after the decoder.
        heads: Attention heads of level 1, 2, 3 and the latent level; the refinement has those of
            level 1.
        ffn_expansion_factor: Hidden over outer channels of the feed-forward networks.
        bias: Biases of the convolutions; only False is supported.
        LayerNorm_type: ``WithBias``, or ``BiasFree`` for norms that do not subtract the mean.
        dual_pixel_task: The authors' variant that joins two images; only False is supported.
        use_checkpoint: Gradient checkpointing: recompute each block in the backward pass.

    Raises:
        UserError: If arguments contradict each other or are not supported; the message names them.
    """

    channels_argument: ClassVar[str] = "inp_channels"

    def __init__(
        self,
        inp_channels: int = 3,
        out_channels: int | None = None,
        dim: int = 48,
        num_blocks: Sequence[int] = (4, 6, 6, 8),
        num_refinement_blocks: int = 4,
        heads: Sequence[int] = (1, 2, 4, 8),
        ffn_expansion_factor: float = 2.66,
        bias: bool = False,
        LayerNorm_type: Literal["WithBias", "BiasFree"] = "WithBias",  # noqa: N803 (the authors' name)
        dual_pixel_task: bool = False,
        use_checkpoint: bool = False,
    ) -> None:
        _refuse_other_kinds(inp_channels, out_channels, bias, LayerNorm_type, dual_pixel_task)
        sizes = UNetSizes(inp_channels, dim, num_blocks, num_refinement_blocks, heads)
        norm = NORMS[LayerNorm_type]
        super().__init__(
            sizes,
            PatchEmbedding(MapConv2d(inp_channels, dim, 3, padding=1, bias=False)),
            lambda channels, count: TransformerBlock(channels, count, ffn_expansion_factor, norm),
            latent_out=sizes.widths[3],
            use_checkpoint=use_checkpoint,
        )

    @classmethod
    def arguments_from(cls, state: State) -> dict[str, Any] | None:
        """Read the arguments off a state dict; None if it is of another network."""
        if not {"encoder_level1.0.attn.qkv.weight", "reduce_chan_level3.weight"} <= state.keys():
            return None
        joined, skipped = state["reduce_chan_level3.weight"].shape[1::-1]
        # What comes up is half of what is joined. PromptIR's prompts bring up less.
        if joined != 2 * skipped or {"output.bias", "skip_conv.weight"} & state.keys():
            return None
        sizes = unet_arguments(state, attention="attn")
        return {
            # out_channels, bias, dual_pixel_task: another value is not supported.
            "inp_channels": sizes.pop("in_channels"),
            **sizes,
            "ffn_expansion_factor": ratio(gdfn_widths(state), 2.66),
            "LayerNorm_type": "WithBias"
            if "encoder_level1.0.norm1.body.bias" in state
            else "BiasFree",
        }

    @property
    def facts(self) -> NetworkFacts:
        """What tools need to know about this network."""
        return NetworkFacts(
            size_multiple=PADDING.multiple,
            min_size=1,
            scale=1,
            halo=None,
            in_channels=self.in_channels,
            precisions=frozenset({"fp32", "bf16", "fp16"}),
            padding=PADDING,
        )


def _refuse_other_kinds(
    inp_channels: int, out_channels: int | None, bias: bool, norm: str, dual_pixel_task: bool
) -> None:
    """Raise a ``UserError`` for what the release has and this network has not."""
    if dual_pixel_task:
        raise UserError(
            "dual_pixel_task: true is not supported; the network restores one image, so give false"
        )
    if out_channels not in (None, inp_channels):
        raise UserError(
            f"out_channels: {out_channels} differs from inp_channels ({inp_channels}), to which the"
            " network adds its output; give the same number or leave it out"
        )
    if bias:
        raise UserError(
            "bias: true is not supported, and no published weights have such biases; give false"
        )
    if norm not in NORMS:
        raise UserError(f"LayerNorm_type: {norm!r} is unknown; give one of {', '.join(NORMS)}")
