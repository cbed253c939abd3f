"""A chain of blocks, with gradient checkpointing."""

from torch import Tensor, is_grad_enabled, nn
from torch.utils.checkpoint import checkpoint


class BlockChain(nn.Sequential):
    """``Sequential`` with optional gradient checkpointing and arguments that all blocks receive."""

    def __init__(self, *blocks: nn.Module, use_checkpoint: bool) -> None:
        super().__init__(*blocks)
        self.use_checkpoint = use_checkpoint

    def forward(self, x: Tensor, *shared: object) -> Tensor:
        """Run ``x = block(x, *shared)`` for every block."""
        for block in self:
            if self.use_checkpoint and is_grad_enabled():
                x = checkpoint(block, x, *shared, use_reentrant=False)
            else:
                x = block(x, *shared)
        return x
