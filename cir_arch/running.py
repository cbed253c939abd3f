"""The facts of any network, and running it on images of any size."""

from typing import Any

from torch import Tensor, nn

from cir_arch.basicsr_networks import basicsr_facts, basicsr_padded
from cir_arch.facts import NetworkFacts
from cir_arch.layers.padding import checked_size, crop_to


def facts_of(network: nn.Module) -> NetworkFacts | None:
    """Return the facts of one of our networks or of BasicSR's SwinIR and RRDBNet, else None."""
    facts = getattr(network, "facts", None)
    return facts if isinstance(facts, NetworkFacts) else basicsr_facts(network)


def run(network: nn.Module, image: Tensor, **inputs: Any) -> Any:
    """Call a network on images (B, C, H, W) of any size, and pad them if it does not.

    Args:
        network: Ours, SwinIR or RRDBNet.
        image: (B, C, H, W) in [0, 1].
        inputs: Further arguments of the network, see ``NetworkFacts.extra_inputs``.

    Raises:
        UserError: If the image has another number of channels than the network takes.
    """
    facts = facts_of(network)
    if facts is None or facts.pads_itself:
        return network(image, **inputs)
    height, width = checked_size(image, facts.in_channels, type(network).__name__)
    restored = network(basicsr_padded(network, image, facts))
    return crop_to(restored, height * facts.scale, width * facts.scale)
