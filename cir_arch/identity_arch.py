"""The network that returns its input, to measure the compressed images themselves."""

from typing import Any

from torch import Tensor

from cir_arch.facts import NetworkFacts
from cir_arch.layers.padding import checked_size
from cir_arch.network import RestorationNetwork, network
from cir_arch.state_dict import State


@network(paper="– (measures the input)", gmacs=0, small={})
class Identity(RestorationNetwork):
    """Returns the input: validation with it gives the figures of the compressed images.

    Args:
        in_channels: Channels of the images.
    """

    def __init__(self, in_channels: int = 3) -> None:
        super().__init__()
        self.in_channels = in_channels

    @classmethod
    def arguments_from(cls, state: State) -> dict[str, Any] | None:
        """Return None: there are no weights to recognise it by."""
        return None

    @property
    def facts(self) -> NetworkFacts:
        """What tools need to know about this network."""
        return NetworkFacts(
            size_multiple=1,
            min_size=1,
            scale=1,
            halo=0,
            in_channels=self.in_channels,
            precisions=frozenset({"fp32", "bf16", "fp16"}),
            has_weights=False,
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return images (B, C, H, W) as they are.

        Raises:
            UserError: If the number of channels is not the network's.
        """
        checked_size(x, self.in_channels, "in_channels")
        return x
