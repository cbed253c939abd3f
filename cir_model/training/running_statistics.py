"""Running statistics of batch normalisation, kept clean of steps that are not taken."""

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


class RunningStatistics:
    """The running statistics of networks, to be put back after a step that was skipped.

    The forward pass moves them, and one value that is not finite would stay in them for ever.
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

    def keep(self) -> None:
        """Note them before the forward pass."""
        self._kept = [buffer.clone() for buffer in self._buffers]

    @torch.no_grad()
    def restore(self) -> None:
        """Put them back as they were noted."""
        for buffer, kept in zip(self._buffers, self._kept, strict=True):
            buffer.copy_(kept)
