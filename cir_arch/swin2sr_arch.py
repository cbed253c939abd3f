"""Swin2SR, SwinIR with the blocks of Swin Transformer V2.

Conde et al., Swin2SR: SwinV2 Transformer for Compressed Image Super-Resolution and Restoration,
ECCV Workshops 2022, https://arxiv.org/abs/2209.11345. The authors' release (Apache-2.0) is
https://github.com/mv-lab/swin2sr; its checkpoints load here unchanged, and so do the settings of
its networks.

Computes the same function as the release. Differences:

- The setting for JPEG, in colour, is the default. ``pixelshuffle_aux`` returns the restored image
  alone, the small second image on request. ``pixelshuffle_hf`` is an error, and so is a
  ``resi_connection`` that no published network has.
- Tables of positions and masks are not in the state dict. Those that a file holds are ignored.
- Any image size from 1 x 1 on works. The release pads by reflection, which fails where a side is
  shorter than its padding.
- Windows are shifted whatever the size of the map, also where it is one window.
- A bias is cut out of a small table as overlapping slices; four masks serve all windows of a map.
  Without gradients, windows run in bands of rows.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from typing import Any, Literal, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cir_arch.facts import NetworkFacts
from cir_arch.layers.blocks import BlockChain, ResidualGroup
from cir_arch.layers.convolution import MapConv2d
from cir_arch.layers.drop_path import drop_path_rates
from cir_arch.layers.padding import checked_size, crop_to
from cir_arch.layers.patch_embedding import PatchEmbedding
from cir_arch.layers.stripe_attention import Cells, relative_places
from cir_arch.layers.swin_network import SwinNetwork, check_arguments, group_arguments
from cir_arch.layers.swin_v2 import SwinV2Block
from cir_arch.layers.upsampling import TAIL_CHANNELS, check_tail
from cir_arch.layers.window_attention import self_attention_index, shift_masks
from cir_arch.network import RestorationNetwork, Weights, network
from cir_arch.state_dict import State
from cir_host.errors import UserError

Upsampler: TypeAlias = Literal[
    "", "pixelshuffle", "pixelshuffle_aux", "pixelshuffledirect", "nearest+conv"
]


class Swin2SRGroup(ResidualGroup):
    """Blocks, a convolution and a linear layer, added to their input."""

    def __init__(self, channels: int, blocks: BlockChain) -> None:
        super().__init__(channels, blocks)
        self.patch_embed = PatchEmbedding(MapConv2d(channels, channels, 1))

    def branch(self, x: Tensor, *shared: object) -> Tensor:
        """Return what is added to the input."""
        out: Tensor = self.patch_embed(super().branch(x, *shared))
        return out


@network(
    paper="[Conde et al., ECCVW 2022](https://arxiv.org/abs/2209.11345), colour JPEG by default;"
    " also compressed super-resolution x4",
    gmacs=216.61,
    small={
        "embed_dim": 12,
        "depths": (2, 1),
        "num_heads": (2, 3),
        "window_size": 8,
        "upsampler": "pixelshuffle_aux",
        "upscale": 4,
        "img_range": 1.0,
        "drop_path_rate": 0.0,
    },
    weights=(
        Weights(
            "https://github.com/mv-lab/swin2sr/releases/tag/v0.0.1",
            "one file per task and scale",
            "params, or a state dict; params_ema for real super-resolution",
            "Apache-2.0",
            "grey JPEG of quality 10 to 40; super-resolution x4 of JPEGs; classical, light and real"
            " super-resolution; not colour JPEG",
        ),
    ),
    untold=("window_size", "img_range"),
)
class Swin2SR(SwinNetwork, RestorationNetwork):
    """Groups of Swin V2 blocks at the size of the input, then the layers that enlarge the image.

    The defaults give the published setting for JPEG, in colour. No weight depends on
    ``window_size`` or ``img_range``, but the output does. The published files need:

    - grey JPEG: ``in_chans: 1``;
    - compressed super-resolution: ``window_size: 8, img_range: 1, upsampler: pixelshuffle_aux,
      upscale: 4``;
    - classical super-resolution: the same with ``pixelshuffle``, and ``upscale: 2`` or 4;
    - light: ``embed_dim: 60, depths: [6, 6, 6, 6], num_heads: [6, 6, 6, 6]`` and
      ``pixelshuffledirect``;
    - real: ``nearest+conv``.

    Args:
        img_size: Side of the training patches. Has no effect.
        in_chans: Channels of input and output image.
        embed_dim: Channels of the features.
        depths: Blocks of each group; every second one has shifted windows.
        num_heads: Attention heads of each group.
        window_size: Side of the attention windows in input pixels.
        mlp_ratio: Hidden over outer channels of the feed-forward networks.
        drop_path_rate: Stochastic depth (Huang et al., ECCV 2016): probability in training that the
            last block drops a branch of a sample; it rises from 0 at the first block.
        use_checkpoint: Gradient checkpointing: recompute each block in the backward pass.
        upscale: Output size over input size: 1 without upsampler, 4 with ``nearest+conv``; 1, 2, 3,
            4 or 8 with ``pixelshuffle`` and ``pixelshuffle_aux``.
        img_range: Factor of the image inside the network. Images are in [0, 1].
        upsampler: The layers behind the groups. Empty: the result is added to the image.
        resi_connection: ``1conv``, the only one published.

    Raises:
        UserError: If arguments contradict each other; the message names them.
    """

    def __init__(
        self,
        img_size: int | Sequence[int] = 64,
        in_chans: int = 3,
        embed_dim: int = 180,
        depths: Sequence[int] = (6,) * 6,
        num_heads: Sequence[int] = (6,) * 6,
        window_size: int = 7,
        mlp_ratio: float = 2.0,
        drop_path_rate: float = 0.1,
        use_checkpoint: bool = False,
        upscale: int = 1,
        img_range: float = 255.0,
        upsampler: Upsampler = "",
        resi_connection: str = "1conv",
    ) -> None:
        if window_size < 2:
            raise UserError(f"window_size: {window_size} is too small; give 2 or more")
        check_arguments(
            in_chans=in_chans,
            embed_dim=embed_dim,
            depths=depths,
            num_heads=num_heads,
            mlp_ratio=mlp_ratio,
            img_range=img_range,
        )
        check_tail(
            upsampler,
            upscale,
            resi_connection,
            known=("", "pixelshuffle", "pixelshuffle_aux", "pixelshuffledirect", "nearest+conv"),
        )
        rates = iter(drop_path_rates(sum(depths), drop_path_rate))

        def group(depth: int, heads: int) -> Swin2SRGroup:
            blocks = (
                SwinV2Block(
                    embed_dim,
                    heads,
                    window_size,
                    shifted=bool(i % 2),
                    mlp_ratio=mlp_ratio,
                    drop_path=rate,
                )
                for i, rate in enumerate(islice(rates, depth))
            )
            return Swin2SRGroup(embed_dim, BlockChain(*blocks, use_checkpoint=use_checkpoint))

        embedding = nn.Sequential(
            OrderedDict(proj=MapConv2d(embed_dim, embed_dim, 1), norm=nn.LayerNorm(embed_dim))
        )
        super().__init__(
            embedding,
            list(map(group, depths, num_heads)),
            in_chans=in_chans,
            embed_dim=embed_dim,
            window_size=window_size,
            upscale=upscale,
            img_range=img_range,
            upsampler=upsampler,
        )
        self.has_aux = upsampler == "pixelshuffle_aux"
        if self.has_aux:
            self.conv_bicubic = nn.Conv2d(in_chans, TAIL_CHANNELS, 3, padding=1)
            self.conv_aux = nn.Conv2d(TAIL_CHANNELS, in_chans, 3, padding=1)
            self.conv_after_aux = nn.Sequential(
                nn.Conv2d(in_chans, TAIL_CHANNELS, 3, padding=1), nn.LeakyReLU(0.01)
            )

    @classmethod
    def arguments_from(cls, state: State) -> dict[str, Any] | None:
        """Read the arguments off a state dict; None if it is of another network.

        Window and range are those of the published networks that have this tail; the window is that
        of the tables of positions where the state dict has these.
        """
        scale = "layers.{}.residual_group.blocks.0.attn.logit_scale"
        found = group_arguments(state, 2.0) if scale.format(0) in state else None
        if found is None:
            return None
        table = state.get("layers.0.residual_group.blocks.0.attn.relative_coords_table")
        window = 8 if found["upsampler"] else 7
        if table is not None:
            window = (table.shape[1] + 1) // 2
        return {
            # img_size: without effect. drop_path_rate: for training only.
            **found,
            "num_heads": [len(state[scale.format(i)]) for i in range(len(found["depths"]))],
            "window_size": window,
            "img_range": 255.0 if window == 7 and not found["upsampler"] else 1.0,
        }

    @property
    def facts(self) -> NetworkFacts:
        """What tools need to know about this network.

        With ``pixelshuffle_aux``, the padding shifts the enlarged image, so that a part of an image
        is not restored as within the whole.
        """
        facts = super().facts
        return replace(facts, halo=None, extra_outputs=("aux",)) if self.has_aux else facts

    def tables_for_others(self) -> dict[str, Tensor]:
        """Return the tables and masks by which spandrel recognises the network.

        The masks are those of a map of 2 x 2 windows.
        """
        sides = (self.window_size, self.window_size)
        places = relative_places(Cells(sides), Cells(sides, backwards=True), torch.zeros(()))
        index = self_attention_index(self.window_size)
        masks = shift_masks(self.window_size, self.window_size // 2, index.device).flatten(0, 2)
        found = {}
        for name, block in self.named_modules():
            if isinstance(block, SwinV2Block):
                found[f"{name}.attn.relative_coords_table"] = places[None]
                found[f"{name}.attn.relative_position_index"] = index
                if any(block.attn.cells.shifts):
                    found[f"{name}.attn_mask"] = masks
        return found

    def forward(self, x: Tensor, return_aux: bool = False) -> Any:
        """Restore images (B, C, H, W) in [0, 1]; result (B, C, H * upscale, W * upscale).

        The result is not clamped. Sides are padded to multiples of the window at bottom and right
        by reflection (replication where a side is too short), and the result is cropped.

        Args:
            x: The images.
            return_aux: With ``pixelshuffle_aux``, return also the restored image before it is
                enlarged, of the padded size.

        Raises:
            UserError: If the number of channels is not the network's, or it has no second image.
        """
        if not self.has_aux:
            if return_aux:
                raise UserError("return_aux: only upsampler: pixelshuffle_aux has a second image")
            return super().forward(x)
        height, width = (side * self.upscale for side in checked_size(x, self.in_chans, "in_chans"))
        image = self.image_range.enter(self.padding.pad(x))
        aux = self.conv_aux(self.conv_before_upsample(self.features(image)))
        enlarged = crop_to(self.upsample(self.conv_after_aux(aux)), height, width)
        # the padded image, squeezed to the size of the result, as in the release
        bicubic = F.interpolate(image, (height, width), mode="bicubic", align_corners=False)
        out = self.image_range.leave(self.conv_last(enlarged + self.conv_bicubic(bicubic)))
        return (out, self.image_range.leave(aux)) if return_aux else out
