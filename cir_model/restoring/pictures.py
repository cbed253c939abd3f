"""Restore the image of a file: grey, colour, alpha and 16 bits."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cir_data.images.channels import Samples
from cir_data.images.jpeg_planes import JpegPlanes
from cir_data.images.reading import Picture
from cir_host.errors import UserError
from cir_model.restoring.inference import Restorer
from cir_model.restoring.luma import luma

_BAND = 64
"""Rows of an image that are rounded at once."""


def restore_picture(
    restorer: Restorer,
    picture: Picture,
    bits: int | None = None,
    hold: Callable[[Tensor], Tensor] | None = None,
    jpeg: JpegPlanes | None = None,
    **inputs: Any,
) -> Picture:
    """Restore a picture like :func:`restore_channels`; alpha is only resized to the result.

    Args:
        restorer: The network.
        picture: The content of a file.
        bits: 8 or 16 bits per sample of the result; None: those of the picture.
        hold: Changes the restored image, (1, C, H, W), before it is rounded; None: nothing.
        jpeg: For a network that takes coefficients: those of the picture's file.
        inputs: Further inputs of the network.

    Raises:
        UserError: The network takes neither 1 nor 3 channels, or fails, or it takes coefficients
            and there are none.
    """
    if restorer.input_kind == "pixels":
        restored = restore_channels(restorer, as_tensor(picture), **inputs)
    else:
        if jpeg is None:
            raise UserError(
                f"{restorer.names[0]} takes the DCT coefficients of a JPEG file, and this is none"
            )
        restored = restore_jpeg(restorer, jpeg, grey=picture.samples.ndim == 2, **inputs)
    if hold is not None:
        restored = hold(restored)
    dtype = picture.samples.dtype if bits is None else np.dtype(f"uint{bits}")
    alpha = picture.alpha
    if alpha is not None:
        size = (restored.shape[-1], restored.shape[-2])
        if alpha.shape[::-1] != size:
            import cv2  # only enlarged alpha needs it

            alpha = cv2.resize(alpha, size, interpolation=cv2.INTER_CUBIC)
        alpha = _to_samples(_to_tensor(alpha), dtype)
    return replace(picture, samples=_to_samples(restored, dtype), alpha=alpha)


def restore_channels(restorer: Restorer, image: Tensor, **inputs: Any) -> Tensor:
    """Restore a grey or colour image by a network for either.

    A colour network gets a grey image as three equal channels, and the result is the luma of its
    output. A grey network restores only the luma of a colour image; the chroma is kept.

    Args:
        restorer: The network.
        image: (1, 1 or 3, H, W) in [0, 1].
        inputs: Further inputs of the network.

    Returns:
        (1, C, scale H, scale W) with the channels of the input, not clamped.

    Raises:
        UserError: The network takes neither 1 nor 3 channels, or fails.
    """
    channels = image.shape[1]
    if channels == restorer.channels:
        return restorer(image, **inputs)
    if restorer.channels == 3:
        return luma(restorer(image.expand(-1, 3, -1, -1), **inputs))
    if restorer.channels == 1 and restorer.scale == 1:
        grey = luma(image)
        return image + (restorer(grey, **inputs) - grey)
    raise UserError(
        f"an image with {channels} channels does not fit a network with {restorer.channels}"
        f" channels and scale {restorer.scale}"
    )


def restore_jpeg(restorer: Restorer, jpeg: JpegPlanes, grey: bool, **inputs: Any) -> Tensor:
    """Restore a JPEG by a network that takes its coefficients.

    Args:
        restorer: The network.
        jpeg: The file.
        grey: Return the luma of the result.
        inputs: Further inputs of the network.

    Returns:
        (1, 1 or 3, H, W) of the picture's size, not clamped.
    """
    restored = restorer(torch.from_numpy(jpeg.planes)[None], **inputs)
    restored = restored[..., : jpeg.height, : jpeg.width]
    return luma(restored) if grey else restored


def as_tensor(picture: Picture) -> Tensor:
    """Return the samples of a picture as (1, C, H, W) in [0, 1], without alpha."""
    return _to_tensor(picture.samples)


def _to_tensor(samples: Samples) -> Tensor:
    planes = samples[None] if samples.ndim == 2 else samples.transpose(2, 0, 1)
    image = torch.from_numpy(np.array(planes, dtype=np.float32, order="C"))
    return image.div_(np.iinfo(samples.dtype).max)[None]


def _to_samples(image: Tensor, dtype: np.dtype[Any]) -> Samples:
    planes, largest = image[0], np.iinfo(dtype).max
    samples: Samples = np.empty((*planes.shape[1:], len(planes)), dtype)
    # in bands, since copies of large images take much memory
    for start in range(0, len(samples), _BAND):
        band = slice(start, start + _BAND)
        scaled = planes[:, band].mul(largest).clamp_(0, largest).round_()
        samples[band] = scaled.permute(1, 2, 0).numpy()
    return samples[..., 0] if len(planes) == 1 else samples
