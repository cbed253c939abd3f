"""The tail of super-resolution networks: sub-pixel convolutions."""

import math

from torch import Tensor, nn

from cir_arch.state_dict import State
from cir_host.errors import UserError

UPSAMPLING_STEPS = {1: (), 2: (2,), 3: (3,), 4: (2, 2), 8: (2, 2, 2)}
"""For each scale, the factors that enlarge the features, one after the other."""


def before_upsampling(channels: int, out_channels: int) -> nn.Sequential:
    """Build the convolution that precedes the upsampling, on (B, C, H, W)."""
    return nn.Sequential(nn.Conv2d(channels, out_channels, 3, padding=1), nn.LeakyReLU(0.01))


def sub_pixel_convolutions(channels: int, scale: int) -> nn.Sequential:
    """Build the upsampling of (B, C, H, W) by a scale; nothing at scale 1.

    Shi et al., Real-Time Single Image and Video Super-Resolution, CVPR 2016.

    Raises:
        UserError: The scale is none of :data:`UPSAMPLING_STEPS`.
    """
    if scale not in UPSAMPLING_STEPS:
        raise UserError(
            f"upscale: {scale!r} is unknown; give one of {', '.join(map(str, UPSAMPLING_STEPS))}"
        )
    return nn.Sequential(
        *(
            layer
            for factor in UPSAMPLING_STEPS[scale]
            for layer in (
                nn.Conv2d(channels, channels * factor**2, 3, padding=1),
                nn.PixelShuffle(factor),
            )
        )
    )


def scale_of(state: State) -> int:
    """Read the scale of :func:`sub_pixel_convolutions`, under ``upsample``, off a state dict."""
    weights: list[Tensor] = [
        value
        for name, value in state.items()
        if name.startswith("upsample.") and name.endswith(".weight")
    ]
    return math.prod(math.isqrt(len(weight) // weight.shape[1]) for weight in weights)
