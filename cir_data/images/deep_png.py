"""PNG of 16 bits per sample, by OpenCV, because Pillow has no 16-bit colour."""

from contextlib import suppress
from typing import Any

import numpy as np

from cir_data.images.channels import Samples, join_alpha, split_alpha


def decode(data: bytes, is_grey: bool) -> tuple[Samples, Samples | None]:
    """Decode a file without metadata into samples and alpha.

    Args:
        data: Header and pixels of the file.
        is_grey: Whether its header says that it has no colour.

    Raises:
        ValueError: OpenCV cannot decode it.
    """
    import cv2  # only for 16 bits

    decoded: Any = None
    with suppress(cv2.error):
        decoded = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if decoded is None:
        raise ValueError("a kind of 16-bit PNG that OpenCV cannot decode")
    samples, alpha = split_alpha(decoded)  # in the order BGR
    if samples.ndim == 3:
        samples = samples[..., 0] if is_grey else samples[..., ::-1]
    return samples, alpha


def encode(samples: Samples, alpha: Samples | None) -> bytes:
    """Return a PNG file without metadata."""
    if samples.ndim == 3:
        samples = samples[..., ::-1]
    elif alpha is not None:  # OpenCV has no grey with alpha
        samples = np.repeat(samples[..., None], 3, axis=2)
    import cv2  # only for 16 bits

    done, encoded = cv2.imencode(".png", join_alpha(samples, alpha))
    assert done  # it fails only on unknown formats
    return bytes(encoded)
