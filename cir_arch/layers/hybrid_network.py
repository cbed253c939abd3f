"""The base of networks of residual hybrid attention groups."""

from typing import Any

import torch
from torch import Tensor, nn

from cir_arch.layers.hybrid_attention import HybridSizes
from cir_arch.layers.window_attention import (
    PositionIndices,
    check_index_shape,
    extended_window,
    overlap_index,
    self_attention_index,
    shift_masks,
)
from cir_host.errors import UserError


class HybridAttentionNetwork(nn.Module):
    """Base of networks of :class:`RHAG`; holds the index tables that all groups share.

    Published checkpoints have the tables at the top level. They follow from the arguments, so a
    checkpoint may lack them.
    """

    def __init__(self, sizes: HybridSizes) -> None:
        super().__init__()
        self.window_size = sizes.window_size
        self.extended_size = extended_window(sizes.window_size, sizes.overlap_ratio)
        self.relative_position_index_SA: Tensor
        self.relative_position_index_OCA: Tensor
        for name, index in self._index_tables().items():
            self.register_buffer(name, index)

    @property
    def positions(self) -> PositionIndices:
        """The tables as the groups use them: without negative indices."""
        entries = (self.window_size + self.extended_size - 1) ** 2
        index = self.relative_position_index_SA
        # The compiler would trace through the cache and warn about it.
        masks = shift_masks.__wrapped__ if torch.compiler.is_compiling() else shift_masks
        return PositionIndices(
            index,
            self.relative_position_index_OCA.remainder(entries),
            masks(self.window_size, self.window_size // 2, index.device),
        )

    def _load_from_state_dict(
        self, state_dict: dict[str, Tensor], prefix: str, *arguments: Any
    ) -> None:
        for name, index in self._index_tables().items():
            check_index_shape(name, state_dict.setdefault(prefix + name, index), index)
        super()._load_from_state_dict(state_dict, prefix, *arguments)

    def _index_tables(self) -> dict[str, Tensor]:
        return {
            "relative_position_index_SA": self_attention_index(self.window_size),
            "relative_position_index_OCA": overlap_index(self.window_size, self.extended_size),
        }


def check_hybrid_sizes(sizes: HybridSizes, channels: int) -> None:
    """Check what would otherwise fail in a group, with a message about tensors.

    Raises:
        UserError: If the extended window cannot be centred, or a layer has no channels.
    """
    window = sizes.window_size
    if window < 2:
        raise UserError(f"window_size: {window} is too small; give 2 or more")
    overlap = extended_window(window, sizes.overlap_ratio) - window
    if not 0 <= overlap <= window or overlap % 2:
        raise UserError(
            f"overlap_ratio: {sizes.overlap_ratio} enlarges windows of window_size {window} by "
            f"{overlap} pixels; give a ratio from 0 to 1 that makes it an even number"
        )
    for name in ("compress_ratio", "squeeze_factor"):
        if not 1 <= getattr(sizes, name) <= channels:
            raise UserError(
                f"{name}: {channels} channels cannot be divided by {getattr(sizes, name)}; "
                f"give 1 to {channels}"
            )
