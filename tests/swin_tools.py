"""Small variants of the networks on SwinNetwork."""

import torch
from naive_forms import NAIVE
from vector_tools import filled

from cir_arch.srformer_arch import SRFormer
from cir_arch.swin2sr_arch import Swin2SR

SMALL = {
    SRFormer: {"embed_dim": 24, "mlp_ratio": 2.0},
    Swin2SR: {"embed_dim": 12, "img_range": 1.0},
}
"""Of each network, what differs."""


def arguments_of(network, **others):
    """Return the arguments of a small variant."""
    common = {"depths": (2, 1), "num_heads": (2, 3), "window_size": 4}
    return {**common, **SMALL[network], **others}


def small(network, naive=False, **others):
    """Build a small variant with known weights, or its naive form with the same ones."""
    torch.manual_seed(0)
    build = NAIVE[network.__name__] if naive else network
    return filled(build(**arguments_of(network, **others)))
