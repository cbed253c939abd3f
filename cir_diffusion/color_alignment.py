"""Give a generated image the colours of the image that it was generated from.

Both ways are applied by the releases of one-step diffusion models, CODiff's among them. The release
aligns images of 8 bits, and truncates before and after; here values stay in float32.
"""

from collections.abc import Callable, Mapping

import torch.nn.functional as F
from torch import Tensor

from cir_diffusion.settings import Alignment

_DILATIONS = (1, 2, 4, 8, 16)
"""Of the blurs that separate the wavelet's low frequencies from the others."""


def adain(image: Tensor, reference: Tensor) -> Tensor:
    """Give each channel the mean and the standard deviation that it has in the reference.

    Args:
        image: (B, C, H, W) in [0, 1].
        reference: The same shape and range.

    Returns:
        The same shape, in [0, 1].
    """
    mean, deviation = _statistics(image)
    wanted_mean, wanted_deviation = _statistics(reference)
    return ((image - mean) / deviation * wanted_deviation + wanted_mean).clamp(0, 1)


def wavelet(image: Tensor, reference: Tensor) -> Tensor:
    """Replace the low frequencies of an image by those of the reference.

    Args:
        image: (B, C, H, W) in [0, 1].
        reference: The same shape and range.

    Returns:
        The same shape, in [0, 1].
    """
    return (image + _low_frequencies(reference - image)).clamp(0, 1)


def _unchanged(image: Tensor, reference: Tensor) -> Tensor:
    return image


ALIGNMENTS: Mapping[Alignment, Callable[[Tensor, Tensor], Tensor]] = {
    "adain": adain,
    "wavelet": wavelet,
    "none": _unchanged,
}
"""Takes the image and its reference."""


def _statistics(image: Tensor) -> tuple[Tensor, Tensor]:
    # The release divides by n - 1. That changes only the weight of 1e-5, and fails at one pixel.
    variance = image.var((-2, -1), correction=0, keepdim=True)
    return image.mean((-2, -1), keepdim=True), (variance + 1e-5).sqrt()


def _low_frequencies(image: Tensor) -> Tensor:
    """Blur by the kernel [1 2 1] / 4 in both directions, at growing distances."""
    for distance in _DILATIONS:
        image = _blurred(_blurred(image, -1, distance), -2, distance)
    return image


def _blurred(image: Tensor, axis: int, distance: int) -> Tensor:
    length = image.shape[axis]
    sides = (0, 0, distance, distance) if axis == -2 else (distance, distance, 0, 0)
    padded = F.pad(image, sides, mode="replicate")
    before, after = padded.narrow(axis, 0, length), padded.narrow(axis, 2 * distance, length)
    return 0.5 * image + 0.25 * (before + after)
