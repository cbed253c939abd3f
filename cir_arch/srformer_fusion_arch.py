"""SRFormerFusion, our reading of the fusion network of the Xhs-IAG team of NTIRE 2024 RAIM.

Liang et al., NTIRE 2024 Restore Any Image Model (RAIM) in the Wild Challenge: Supplementary
Material, CVPR Workshops 2024, sections 1.2.3 to 1.2.5. The team published neither code nor weights.
The report says: SRFormer (https://arxiv.org/abs/2303.09735) gets the low-quality image, a mask and
a mixture of both images by the mask; where the mask is 1, the other image (the team's: SUPIR's
result) is replaced by the low-quality one and is to be restored; elsewhere it should stay. It
states window, widths, depths and heads.

Everything else is our choice, so the team's numbers cannot be expected of it: the order of the
inputs, the image to which the result is added, and whether the mixture is pasted outside the mask.
The team's losses, its random masks for training and its masks from two results are not here.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor

from cir_arch.facts import NetworkFacts
from cir_arch.layers.convolution import MapConv2d
from cir_arch.layers.padding import checked_size, crop_to
from cir_arch.network import network
from cir_arch.srformer_arch import SRFormer
from cir_arch.state_dict import State
from cir_host.errors import UserError

SKIPS = ("mixture", "lr")


@network(
    paper="our reading of the fusion network of the Xhs-IAG team of the RAIM challenge",
    gmacs=912.37,
    small={
        "embed_dim": 24,
        "depths": (2, 1),
        "num_heads": (2, 3),
        "window_size": 4,
        "mlp_ratio": 2.0,
        "drop_path_rate": 0.0,
    },
)
class SRFormerFusion(SRFormer):
    """SRFormer that restores an image where a mask says so, and keeps another one elsewhere.

    Args:
        in_chans: Channels of input and output image.
        embed_dim: Channels of the features, a multiple of 4.
        depths: Blocks of each group; every second one has shifted windows.
        num_heads: Attention heads of each group.
        window_size: Side of the attention windows in pixels, an even number.
        mlp_ratio: Hidden over outer channels of the feed-forward networks.
        drop_path_rate: Stochastic depth, see :class:`cir_arch.srformer_arch.SRFormer`.
        use_checkpoint: Gradient checkpointing: recompute each block in the backward pass.
        skip_from: The image to which the result is added: ``mixture``, or ``lr`` for the input.
        paste: Return the mixture itself outside the mask.

    Raises:
        UserError: If arguments contradict each other; the message names them.
    """

    def __init__(
        self,
        in_chans: int = 3,
        embed_dim: int = 360,
        depths: Sequence[int] = (6,) * 5,
        num_heads: Sequence[int] = (6,) * 5,
        window_size: int = 24,
        mlp_ratio: float = 3.0,
        drop_path_rate: float = 0.1,
        use_checkpoint: bool = False,
        skip_from: Literal["mixture", "lr"] = "mixture",
        paste: bool = False,
    ) -> None:
        if skip_from not in SKIPS:
            raise UserError(f"skip_from: {skip_from!r} is not one of {', '.join(SKIPS)}")
        super().__init__(
            in_chans=in_chans,
            embed_dim=embed_dim,
            depths=depths,
            num_heads=num_heads,
            window_size=window_size,
            mlp_ratio=mlp_ratio,
            drop_path_rate=drop_path_rate,
            use_checkpoint=use_checkpoint,
        )
        self.skip_from = skip_from
        self.paste = paste
        self.conv_first = MapConv2d(2 * in_chans + 1, embed_dim, 3, padding=1)

    @classmethod
    def arguments_from(cls, state: State) -> dict[str, Any] | None:
        """Read the arguments off a state dict; None if it is of another network."""
        found = SRFormer.arguments_from(state)
        if found is None or found.pop("upsampler") or found.pop("upscale") != 1:
            return None
        # skip_from, paste: change no shape. drop_path_rate: for training only.
        channels = len(state["conv_last.weight"])
        if found["in_chans"] != 2 * channels + 1:
            return None
        return {**found, "in_chans": channels}

    @property
    def facts(self) -> NetworkFacts:
        """What tools need to know about this network."""
        return replace(super().facts, extra_inputs=("mask", "other"))

    def forward(self, x: Tensor, mask: Tensor | None = None, other: Tensor | None = None) -> Tensor:
        """Restore images (B, C, H, W) in [0, 1] where the mask is 1; same shape, not clamped.

        Args:
            x: The images of low quality.
            mask: (B, 1, H, W) in [0, 1]; 1: restore, 0: keep ``other``. Default: 1 everywhere.
            other: Another result for each image, of its shape, such as that of a diffusion model;
                in training the ground truth. Default: ``x``.

        Raises:
            UserError: If the number of channels is not the network's, or the shapes differ.
        """
        height, width = checked_size(x, self.in_chans, "in_chans")
        mask = x.new_ones(len(x), 1, height, width) if mask is None else mask
        other = x if other is None else other
        for name, given, channels in (("mask", mask, 1), ("other", other, self.in_chans)):
            wanted = (len(x), channels, height, width)
            if given.shape != wanted:
                raise UserError(
                    f"{name}: its shape is {tuple(given.shape)}, the image needs {wanted}"
                )
        mixture = other + mask * (x - other)
        lr, blend = (self.image_range.enter(self.padding.pad(image)) for image in (x, mixture))
        features = self.features(torch.cat([lr, self.padding.pad(mask), blend], dim=1))
        restored = self._image(blend if self.skip_from == "mixture" else lr, features)
        y = crop_to(self.image_range.leave(restored), height, width)
        return mixture + mask * (y - mixture) if self.paste else y
