"""The first layers of a network, under the key of published checkpoints."""

from torch import Tensor, nn


class PatchEmbedding(nn.Module):
    """Wraps the layers that turn the image into features, so that their key is ``proj``."""

    def __init__(self, proj: nn.Module) -> None:
        super().__init__()
        self.proj = proj

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to (B, H, W, C')."""
        out: Tensor = self.proj(x)
        return out
