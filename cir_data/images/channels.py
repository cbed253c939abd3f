"""Channels: alpha split from colour, bit depths scaled, Pillow's modes reduced to four."""

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image

Samples: TypeAlias = npt.NDArray[Any]
"""(H, W) grey, or (H, W, 3) RGB, of ``uint8`` or ``uint16``."""


_MODES = {"1": "L", "L": "L", "LA": "LA", "La": "LA", "RGBA": "RGBA", "PA": "RGBA", "RGBa": "RGBA"}
"""Target modes of Pillow's modes; all others become RGB."""


def plain_mode(image: Image.Image) -> str:
    """Return the mode that keeps grey, colour and alpha: ``L``, ``LA``, ``RGB`` or ``RGBA``.

    Example:
        >>> plain_mode(Image.new("P", (8, 6))), plain_mode(Image.new("1", (8, 6)))
        ('RGB', 'L')
    """
    mode = _MODES.get(image.mode, "RGB")
    return mode + "A" if mode in ("L", "RGB") and "transparency" in image.info else mode


def split_alpha(samples: Samples) -> tuple[Samples, Samples | None]:
    """Split (H, W, 2) or (H, W, 4) into colour and alpha; without alpha, that is None.

    Example:
        >>> colour, alpha = split_alpha(np.zeros((8, 6, 4), np.uint8))
        >>> colour.shape, alpha.shape
        ((8, 6, 3), (8, 6))
    """
    if samples.ndim == 2 or samples.shape[2] == 3:
        return samples, None
    colour = samples[..., 0] if samples.shape[2] == 2 else samples[..., :3]
    return colour, samples[..., -1]


def join_alpha(samples: Samples, alpha: Samples | None) -> Samples:
    """Append alpha as the last channel."""
    return samples if alpha is None else np.dstack([samples, alpha])


def to_full_range(samples: Samples, bits: int) -> Samples:
    """Scale samples of 1 to 16 bits to 8 or 16 bits.

    Example:
        >>> to_full_range(np.array([0, 1, 3]), bits=2)
        array([  0,  85, 255], dtype=uint8)
    """
    if bits in (8, 16):
        return samples.astype(f"uint{bits}", copy=False)
    target = np.dtype(np.uint8 if bits < 8 else np.uint16)
    factor = np.iinfo(target).max / (2**bits - 1)
    scaled: Samples = (samples * factor).round().astype(target)
    return scaled


def unpremultiplied(colour: Samples, alpha: Samples) -> Samples:
    """Divide premultiplied colour by alpha; transparent pixels become black."""
    full = np.iinfo(colour.dtype).max
    divisor = np.maximum(alpha, 1)[..., None].astype(np.float32)
    divided: Samples = (colour * (full / divisor)).round().clip(0, full).astype(colour.dtype)
    divided[alpha == 0] = 0
    return divided
