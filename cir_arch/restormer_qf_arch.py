"""RestormerQF, our reading of the FVL-T1 team's network of the NTIRE 2024 challenge.

Yang et al., NTIRE 2024 Challenge on Blind Enhancement of Compressed Image: Methods and Results,
CVPR Workshops 2024, section 4.6. The team published neither code nor weights. The report says that
a quality factor predictor is trained first and then fixed, and that QF attention blocks, added to
Restormer, inject the predicted quality factor into its features by modulation.

Everything else is our choice, so the team's numbers cannot be expected of it: the predictor, the
QF attention of FBCNN (https://arxiv.org/abs/2109.14573) as the blocks, and their places after the
levels of the decoder.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any, Literal, overload

import torch
from torch import Tensor, nn

from cir_arch.facts import NetworkFacts
from cir_arch.layers.convolution import to_image, to_map
from cir_arch.layers.padding import checked_size, crop_to
from cir_arch.layers.quality_head import QualityHead
from cir_arch.layers.quality_modulation import (
    QFAttention,
    given_or_predicted,
    quality_embedding,
    scale_by_quality,
    shift_by_quality,
    start_quality_layers,
)
from cir_arch.layers.residual_conv import ResBlock
from cir_arch.layers.unet import PADDING
from cir_arch.network import network
from cir_arch.restormer_arch import Restormer
from cir_arch.state_dict import State, entry_count
from cir_host.errors import UserError

LEVELS = (3, 2, 1)
"""Levels of the decoder, from the lowest."""


class Predictor(nn.Sequential):
    """Maps images (B, C, H, W) to their quality, 1 - QF / 100, (B, 1).

    Three times residual blocks and a convolution that halves the size, then a quality head.
    """

    def __init__(
        self, in_channels: int, nc: Sequence[int], blocks: int, hidden: int, use_checkpoint: bool
    ) -> None:
        super().__init__()
        self.head = nn.Conv2d(in_channels, nc[0], 3, padding=1)
        for level, (wide, narrow) in enumerate(pairwise(nc), start=1):
            stage = (ResBlock(wide, "R", use_checkpoint) for _ in range(blocks))
            self.add_module(f"down{level}", nn.Sequential(*stage, nn.Conv2d(wide, narrow, 2, 2)))
        self.quality = QualityHead(nc[-1], hidden, blocks, "R", use_checkpoint)


@network(
    paper="FVL-T1 team of the challenge, our reading",
    gmacs=43.88,
    small={
        "dim": 8,
        "num_blocks": (1, 1, 1, 1),
        "num_refinement_blocks": 1,
        "predictor_nc": (4, 6, 8, 12),
        "quality_nc": 16,
        "qf_levels": (3, 1),
        "identity_start": False,
    },
)
class RestormerQF(Restormer):
    """Restormer that predicts the image's quality and restores accordingly.

    The predictor is a network of its own. After a level of the decoder stands a QF attention block,
    which the quality scales and shifts. A checkpoint of Restormer loads as far as it goes
    (``strict_load_g: false``), and at the start the blocks do not change its image.

    Args:
        inp_channels: Channels of input and output image.
        dim: As in :class:`Restormer`, like the following ones.
        num_blocks: Blocks of each level.
        num_refinement_blocks: Blocks after the decoder.
        heads: Attention heads of each level.
        ffn_expansion_factor: Hidden over outer channels of the feed-forward networks.
        LayerNorm_type: ``WithBias`` or ``BiasFree``.
        use_checkpoint: Gradient checkpointing: recompute each block in the backward pass.
        predictor_nc: Channels of the predictor's four levels.
        predictor_blocks: Residual blocks of each of them.
        quality_nc: Hidden channels of the predictor's head, and channels of the quality's
            embedding.
        qf_levels: Levels of the decoder, of 3, 2 and 1, that a QF attention block follows.
        freeze_predictor: The predictor is not trained: it gets no gradient.
        identity_start: The QF attention blocks start as the identity.

    Raises:
        UserError: If arguments contradict each other; the message names them.
    """

    def __init__(
        self,
        inp_channels: int = 3,
        dim: int = 48,
        num_blocks: Sequence[int] = (4, 6, 6, 8),
        num_refinement_blocks: int = 4,
        heads: Sequence[int] = (1, 2, 4, 8),
        ffn_expansion_factor: float = 2.66,
        LayerNorm_type: Literal["WithBias", "BiasFree"] = "WithBias",  # noqa: N803 (Restormer's name)
        use_checkpoint: bool = False,
        predictor_nc: Sequence[int] = (32, 64, 128, 128),
        predictor_blocks: int = 1,
        quality_nc: int = 128,
        qf_levels: Sequence[int] = LEVELS,
        freeze_predictor: bool = False,
        identity_start: bool = True,
    ) -> None:
        super().__init__(
            inp_channels,
            dim=dim,
            num_blocks=num_blocks,
            num_refinement_blocks=num_refinement_blocks,
            heads=heads,
            ffn_expansion_factor=ffn_expansion_factor,
            LayerNorm_type=LayerNorm_type,
            use_checkpoint=use_checkpoint,
        )
        _check(predictor_nc, qf_levels)
        self.qf_levels = tuple(qf_levels)
        self.qf_pred = Predictor(
            inp_channels, predictor_nc, predictor_blocks, quality_nc, use_checkpoint
        )
        self.qf_pred.requires_grad_(not freeze_predictor)
        self.qf_embed = quality_embedding(quality_nc)
        widths = {3: 4 * dim, 2: 2 * dim, 1: 2 * dim}
        for level in qf_levels:
            self.add_module(f"qf_block_{level}", QFAttention(widths[level], "R", use_checkpoint))
            self.add_module(f"to_gamma_{level}", scale_by_quality(quality_nc, widths[level]))
            self.add_module(f"to_beta_{level}", shift_by_quality(quality_nc, widths[level]))
        if identity_start:
            self._start_as_identity()

    @classmethod
    def arguments_from(cls, state: State) -> dict[str, Any] | None:
        """Read the arguments off a state dict; None if it is of another network."""
        if "qf_pred.quality.0.res.0.weight" not in state:
            return None
        arguments = Restormer.arguments_from(state)
        if arguments is None:
            return None
        blocks = entry_count(state, "qf_pred.down1.") - 1
        downs = [state[f"qf_pred.down{level}.{blocks}.weight"] for level in (1, 2, 3)]
        return {
            # freeze_predictor, identity_start: for training only.
            **arguments,
            "predictor_nc": [downs[0].shape[1], *(len(down) for down in downs)],
            "predictor_blocks": blocks,
            "quality_nc": len(state["qf_embed.0.weight"]),
            "qf_levels": [level for level in LEVELS if f"to_beta_{level}.0.weight" in state],
        }

    @property
    def facts(self) -> NetworkFacts:
        """What tools need to know about this network."""
        return replace(super().facts, extra_outputs=("quality",), extra_inputs=("quality",))

    @overload
    def forward(
        self,
        x: Tensor,
        quality: float | Tensor | None = ...,
        return_quality: Literal[False] = ...,
    ) -> Tensor: ...

    @overload
    def forward(
        self, x: Tensor, quality: float | Tensor | None = ..., *, return_quality: bool
    ) -> Tensor | tuple[Tensor, Tensor]: ...

    def forward(
        self, x: Tensor, quality: float | Tensor | None = None, return_quality: bool = False
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Restore images (B, C, H, W), RGB in [0, 1]; same height and width, not clamped.

        Images are padded as by Restormer; the quality is predicted from padded images.

        Args:
            x: Images.
            quality: 1 - QF / 100 in [0, 1], used instead of the prediction: one number for all
                images, or (B, 1) or (1, 1). Higher values mean stronger compression. None: predict
                it.
            return_quality: Return the image and the predicted quality (B, 1), even if another
                quality was given. NaN in a given tensor is then replaced by the prediction.

        Raises:
            UserError: If ``quality`` is a number outside [0, 1] or a tensor of another shape, or
                the number of channels is not the network's.
        """
        height, width = checked_size(x, self.in_channels, self.channels_argument)
        padded = PADDING.pad(x)
        strength, predicted = given_or_predicted(
            quality, lambda: self.qf_pred(padded), x, return_quality
        )
        modulate = self._modulation(strength)
        out = self.restore_padded(
            padded, lambda y, level: modulate(y, level + 1), lambda y: modulate(y, 1)
        )
        out = crop_to(out, height, width)
        if predicted is None or not return_quality:
            return out
        return out, predicted

    @torch.no_grad()
    def _start_as_identity(self) -> None:
        """Let the branches of the QF attention blocks and their shifts be zero."""
        found = dict(self.named_parameters())
        for level in self.qf_levels:
            for name in (f"qf_block_{level}.res.2", f"to_beta_{level}.0"):
                found[f"{name}.weight"].zero_()
                found[f"{name}.bias"].zero_()
        readers = (getattr(self, f"to_{w}_{n}") for n in self.qf_levels for w in ("gamma", "beta"))
        start_quality_layers(self.qf_embed, readers)

    def _modulation(self, quality: Tensor) -> Callable[[Tensor, int], Tensor]:
        """Return what maps features (B, H, W, C) that leave a level to modulated ones."""
        embedding = self.qf_embed(quality)

        def modulate(y: Tensor, level: int) -> Tensor:
            if level not in self.qf_levels:
                return y
            gamma, beta = (
                self.get_submodule(f"{name}_{level}")(embedding)[..., None, None]
                for name in ("to_gamma", "to_beta")
            )
            return to_map(self.get_submodule(f"qf_block_{level}")(to_image(y), gamma, beta))

        return modulate


def _check(predictor_nc: Sequence[int], qf_levels: Sequence[int]) -> None:
    if len(predictor_nc) != 4:
        raise UserError(
            f"predictor_nc: {list(predictor_nc)} has {len(predictor_nc)} numbers; give four"
        )
    if not qf_levels or len(set(qf_levels)) < len(qf_levels) or set(qf_levels) - set(LEVELS):
        raise UserError(
            f"qf_levels: {list(qf_levels)} are not levels of the decoder; give at least one of 3, 2"
            " and 1, each once"
        )
