"""The tails of SwinIR and its kin, which turn features into an image, enlarged or not."""

import math

from torch import Tensor, nn

from cir_arch.state_dict import State
from cir_host.errors import UserError

UPSAMPLING_STEPS = {1: (), 2: (2,), 3: (3,), 4: (2, 2), 8: (2, 2, 2)}
"""For each scale, the factors that enlarge the features, one after the other."""

TAIL_CHANNELS = 64
"""Channels of the features during upsampling, where the network has no argument for them."""


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
    return math.prod(math.isqrt(len(w) // w.shape[1]) for w in _upsampling_weights(state))


def _upsampling_weights(state: State) -> list[Tensor]:
    return [v for n, v in state.items() if n.startswith("upsample.") and n.endswith(".weight")]


def tail_of(state: State) -> tuple[str, int]:
    """Read ``upsampler`` and ``upscale`` of SwinIR and its kin off a state dict."""
    if "conv_up1.weight" in state:
        return "nearest+conv", 4
    if "conv_before_upsample.0.weight" in state:
        upsampler = "pixelshuffle_aux" if "conv_aux.weight" in state else "pixelshuffle"
        return upsampler, scale_of(state)
    if weights := _upsampling_weights(state):
        return "pixelshuffledirect", math.isqrt(
            len(weights[0]) // state["conv_first.weight"].shape[1]
        )
    return "", 1


def check_tail(upsampler: str, upscale: int, resi_connection: str, known: tuple[str, ...]) -> None:
    """Check the arguments of SwinIR and its kin that concern what follows the blocks.

    Args:
        upsampler: One of ``known``.
        upscale: Output size over input size.
        resi_connection: The convolution behind the blocks.
        known: The upsamplers that the network has.

    Raises:
        UserError: The network has no such layers, or they cannot enlarge by ``upscale``.
    """
    if upsampler not in known:
        choices = f"{', '.join(map(repr, known[:-1]))} or {known[-1]!r}"
        raise UserError(f"upsampler: {upsampler!r} is unknown; give {choices}")
    if not upsampler and upscale != 1:
        larger = known[1] if len(known) == 2 else f"one of {', '.join(known[1:])}"
        raise UserError(
            f"upscale: without upsampler, the network keeps the size and cannot enlarge by"
            f" {upscale!r}; give 1, or upsampler: {larger}"
        )
    if upsampler == "nearest+conv" and upscale != 4:
        raise UserError(f"upscale: upsampler nearest+conv enlarges by 4, not {upscale!r}; give 4")
    if upscale < 1:
        raise UserError(f"upscale: cannot enlarge by {upscale!r}; give 1 or more")
    if resi_connection != "1conv":
        raise UserError(
            f"resi_connection: {resi_connection!r} is in no published network; give '1conv'"
        )
