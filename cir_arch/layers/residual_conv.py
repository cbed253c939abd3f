"""Residual blocks of two convolutions, with or without batch norm (FBCNN, CaVE)."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from cir_host.errors import UserError

ACT_MODES = ("R", "BR")
"""Layers after the first convolution: ReLU, or batch norm and ReLU."""


class ResidualBranch(nn.Module):
    """Two 3x3 convolutions with a ReLU between. Subclasses define how these are added to the input.

    Args:
        channels: Channels of input and output.
        act_mode: ``R``, or ``BR`` for a batch norm before the ReLU.
        use_checkpoint: Gradient checkpointing: recompute the convolutions in the backward pass.

    Raises:
        UserError: If ``act_mode`` is neither.
    """

    def __init__(self, channels: int, act_mode: str, use_checkpoint: bool) -> None:
        super().__init__()
        if act_mode not in ACT_MODES:
            raise UserError(
                f"act_mode: {act_mode!r} is unknown; give one of {', '.join(ACT_MODES)}"
            )
        self.use_checkpoint = use_checkpoint
        # Momentum and epsilon of the published networks; running = 0.1 old + 0.9 new.
        norm = [nn.BatchNorm2d(channels, eps=1e-4, momentum=0.9)] if act_mode == "BR" else []
        self.res = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1),
            *norm,
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, channels, 3, padding=1),
        )

    def branch(self, x: Tensor) -> Tensor:
        """Return the difference that the block adds to (B, C, H, W)."""
        out: Tensor
        if not (self.use_checkpoint and torch.is_grad_enabled()):
            out = self.res(x)
        elif torch.compiler.is_compiling():
            # Compiled recomputation updates no buffers, and the compiler accepts no such contexts.
            out = checkpoint(self.res, x, use_reentrant=False)
        else:
            contexts = self._checkpoint_contexts
            out = checkpoint(self.res, x, use_reentrant=False, context_fn=contexts)
        return out

    def _checkpoint_contexts(
        self,
    ) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), self._statistics_kept()

    @contextmanager
    def _statistics_kept(self) -> Iterator[None]:
        """Let a recomputation update copies: the statistics already include the batch."""
        norms = [module for module in self.res if isinstance(module, nn.BatchNorm2d)]
        kept = [(norm, dict(norm.named_buffers())) for norm in norms]
        for norm, buffers in kept:
            for name, buffer in buffers.items():
                setattr(norm, name, buffer.clone())
        try:
            yield
        finally:
            for norm, buffers in kept:
                for name, buffer in buffers.items():
                    setattr(norm, name, buffer)


class ResBlock(ResidualBranch):
    """The branch, added to the input."""

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape."""
        return x + self.branch(x)
