"""HFT, the UCAS_SCST team's network of the NTIRE 2024 challenge on compressed images.

Yang et al., NTIRE 2024 Challenge on Blind Enhancement of Compressed Image: Methods and Results,
CVPR Workshops 2024. It is HAT (https://arxiv.org/abs/2205.04437) at scale 1 with ten groups instead
of six, trained with losses on blurred images and on DCT coefficients. The team published no code;
HAT's release with these arguments has the number of parameters that the report states.
"""

from functools import partialmethod
from typing import Any

from cir_arch.hat_arch import HAT
from cir_arch.network import network
from cir_arch.state_dict import State


@network(
    paper="HAT of ten groups at scale 1, UCAS_SCST team of the challenge",
    gmacs=667.31,
    small={
        "embed_dim": 12,
        "depths": (1,) * 10,
        "num_heads": (2,) * 10,
        "window_size": 4,
        "compress_ratio": 2,
        "squeeze_factor": 1,
        "num_feat": 8,
        "drop_path_rate": 0.0,
    },
    in_spandrel=True,  # as HAT
)
class HFT(HAT):
    """HAT with other defaults: ten groups, scale 1. Takes HAT's arguments, by name.

    A state dict of HAT at scale 1 with ten groups is recognised as HFT.
    """

    __init__ = partialmethod(HAT.__init__, upscale=1, depths=(6,) * 10, num_heads=(6,) * 10)

    @classmethod
    def arguments_from(cls, state: State) -> dict[str, Any] | None:
        """Read the arguments off a state dict; None unless it is scale 1 with ten groups."""
        arguments = HAT.arguments_from(state)
        if arguments is None or arguments["upscale"] != 1 or len(arguments["depths"]) != 10:
            return None
        return arguments
