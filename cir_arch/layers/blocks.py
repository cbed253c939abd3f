"""A chain of blocks, with gradient checkpointing, and a group of them with a residual."""

from torch import Tensor, is_grad_enabled, nn
from torch.utils.checkpoint import checkpoint

from cir_arch.layers.convolution import MapConv2d


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


class _Blocks(nn.Module):
    """Holds the blocks of a group under the key of the published checkpoints."""

    def __init__(self, blocks: BlockChain) -> None:
        super().__init__()
        self.blocks = blocks


class ResidualGroup(nn.Module):
    """Blocks and a convolution, added to their input (RSTB of Liang et al., SwinIR, ICCVW 2021)."""

    def __init__(self, channels: int, blocks: BlockChain) -> None:
        super().__init__()
        self.residual_group = _Blocks(blocks)
        self.conv = MapConv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor, *shared: object) -> Tensor:
        """Map (B, H, W, C) to the same shape; all blocks receive ``shared``."""
        return x + self.branch(x, *shared)

    def branch(self, x: Tensor, *shared: object) -> Tensor:
        """Return what is added to the input."""
        out: Tensor = self.conv(self.residual_group.blocks(x, *shared))
        return out
