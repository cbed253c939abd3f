"""MyNet: title of the paper, authors, venue. https://arxiv.org/abs/...

Differences from the authors' release: ...
"""

from typing import Any

from torch import Tensor, nn

from cir_arch.facts import NetworkFacts
from cir_arch.layers.blocks import BlockChain
from cir_arch.layers.padding import PaddingRule, checked_size, crop_to
from cir_arch.layers.receptive_field import Span, radius
from cir_arch.layers.residual_conv import ResBlock
from cir_arch.network import RestorationNetwork, network
from cir_arch.state_dict import State, entry_count

PADDING = PaddingRule(2, "reflect")


@network(
    paper="[Author et al., venue year](https://arxiv.org/abs/...)",
    gmacs=1.40,
    small={"width": 8, "depth": 2},
)
class MyNet(RestorationNetwork):
    """Residual blocks at half the size of the image, whose result is added to the image.

    Args:
        in_channels: Channels of input and output image.
        width: Channels of the features.
        depth: Residual blocks.
        use_checkpoint: Gradient checkpointing: recompute each block in the backward pass.
    """

    def __init__(
        self,
        in_channels: int = 3,
        width: int = 48,
        depth: int = 8,
        use_checkpoint: bool = False,
    ) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.depth = depth
        self.head = nn.Sequential(
            nn.PixelUnshuffle(2), nn.Conv2d(4 * in_channels, width, 3, padding=1)
        )
        blocks = (ResBlock(width, "R", use_checkpoint=False) for _ in range(depth))
        self.body = BlockChain(*blocks, use_checkpoint=use_checkpoint)
        self.tail = nn.Sequential(
            nn.Conv2d(width, 4 * in_channels, 3, padding=1), nn.PixelShuffle(2)
        )

    @classmethod
    def arguments_from(cls, state: State) -> dict[str, Any] | None:
        """Read the arguments off a state dict; None if it is of another network."""
        if "head.1.weight" not in state:  # a name that no other network has
            return None
        width, channels = state["head.1.weight"].shape[:2]
        return {"in_channels": channels // 4, "width": width, "depth": entry_count(state, "body.")}

    @property
    def facts(self) -> NetworkFacts:
        """What tools need to know about this network."""

        def input_of(output: Span) -> Span:
            return output.enlargement(2).convolutions(1 + 2 * self.depth + 1).reduction(2)

        return NetworkFacts(
            size_multiple=PADDING.multiple,
            min_size=1,
            scale=1,
            halo=radius(input_of, PADDING.multiple),
            in_channels=self.in_channels,
            precisions=frozenset({"fp32", "bf16", "fp16"}),
            padding=PADDING,
        )

    def forward(self, x: Tensor) -> Tensor:
        """Restore images (B, C, H, W) in [0, 1]; same shape, not clamped.

        Raises:
            UserError: If the number of channels is not the network's.
        """
        height, width = checked_size(x, self.in_channels, "in_channels")
        padded = PADDING.pad(x)
        return crop_to(padded + self.tail(self.body(self.head(padded))), height, width)
