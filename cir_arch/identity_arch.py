"""The network that changes nothing, to measure the input itself."""

from basicsr.utils.registry import ARCH_REGISTRY
from torch import Tensor, nn

from cir_arch.facts import NetworkFacts
from cir_host.registration import register


@register(ARCH_REGISTRY)
class Identity(nn.Module):
    """Return the input: validation with it gives the figures of the compressed images.

    Args:
        in_channels: Channels of the images.
    """

    def __init__(self, in_channels: int = 3) -> None:
        super().__init__()
        self.in_channels = in_channels

    @property
    def facts(self) -> NetworkFacts:
        """What tools need to know of this network."""
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
        """Return images (B, C, H, W) as they are."""
        return x
