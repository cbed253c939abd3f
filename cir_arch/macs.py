"""Count the multiplications of a network (MACs)."""

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from cir_arch.running import facts_of, run


def count_macs(network: nn.Module, height: int = 128, width: int = 128) -> int:
    """Count the multiplications of convolutions and matrix products for one image.

    Attention is counted; norms, activations and interpolation (including UCIP's look-ups) are not.
    Parts that do not change the image, such as CaVE's prediction of the quality, do not run.

    Args:
        network: Built under ``torch.device("meta")``, so that nothing is computed.
        height: Of the image.
        width: Of the image.
    """
    facts = facts_of(network)
    channels = 3 if facts is None else facts.in_channels
    image = torch.empty(1, channels, height, width, device="meta")
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter, torch.device("meta"):
        run(network.eval(), image)
    total: int = counter.get_total_flops()
    return total // 2
