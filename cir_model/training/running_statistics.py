"""Restore the running statistics of batch normalisation after a skipped step."""

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


class RunningStatistics:
    """The running statistics of networks, which a skipped step must not change.

    The forward pass updates them, and one value that is not finite would stay in them forever.
    """

    def __init__(self, *networks: nn.Module) -> None:
        self._buffers: list[Tensor] = [
            buffer
            for network in networks
            for module in network.modules()
            if isinstance(module, _BatchNorm)
            for buffer in module.buffers()
        ]
        self._kept: list[Tensor] = []

    def __bool__(self) -> bool:
        """Return whether the networks have such statistics."""
        return bool(self._buffers)

    def keep(self) -> None:
        """Copy them before the forward pass."""
        self._kept = [buffer.clone() for buffer in self._buffers]

    @torch.no_grad()
    def restore(self) -> None:
        """Restore the copies."""
        for buffer, kept in zip(self._buffers, self._kept, strict=True):
            buffer.copy_(kept)
