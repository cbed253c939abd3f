"""A picture of a file passed through networks: grey, colour, alpha and 16 bits."""

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cir_data.images.channels import Samples
from cir_data.images.reading import Picture
from cir_host.errors import UserError
from cir_model.restoring.inference import Restorer

_LUMA = (0.299, 0.587, 0.114)
"""Of ITU-R BT.601, which JPEG uses."""


def restore_picture(
    restorer: Restorer, picture: Picture, bits: int | None = None, **inputs: Any
) -> Picture:
    """Restore a picture, as :func:`restore_channels` does; alpha is carried, and enlarged with it.

    Args:
        restorer: The networks.
        picture: What a file held.
        bits: 8 or 16 for each sample of the result; None: those of the picture.
        inputs: What the networks take beside the image.

    Raises:
        UserError: The networks have other numbers of channels than 1 and 3, or fail.
    """
    restored = restore_channels(restorer, as_tensor(picture), **inputs)
    dtype = picture.samples.dtype if bits is None else np.dtype(f"uint{bits}")
    alpha = picture.alpha
    if alpha is not None:
        size = (restored.shape[-1], restored.shape[-2])
        if alpha.shape[::-1] != size:
            import cv2  # for enlarged alpha alone

            alpha = cv2.resize(alpha, size, interpolation=cv2.INTER_CUBIC)
        alpha = _to_samples(_to_tensor(alpha), dtype)
    return replace(picture, samples=_to_samples(restored, dtype), alpha=alpha)


def restore_channels(restorer: Restorer, image: Tensor, **inputs: Any) -> Tensor:
    """Restore grey or colour by networks for either.

    Grey passes through a network for colour as three equal channels, and the luma of what comes
    back is taken. Of colour, a network for grey restores the luma, and the chroma stays.

    Args:
        restorer: The networks.
        image: (1, 1 or 3, H, W) in [0, 1].
        inputs: What the networks take beside the image.

    Returns:
        As many channels as came, (1, C, scale H, scale W), not clamped.

    Raises:
        UserError: The networks have other numbers of channels than 1 and 3, or fail.
    """
    channels = image.shape[1]
    if channels == restorer.channels:
        return restorer(image, **inputs)
    if restorer.channels == 3:
        return _luma(restorer(image.expand(-1, 3, -1, -1), **inputs))
    if restorer.channels == 1 and restorer.scale == 1:
        luma = _luma(image)
        return image + (restorer(luma, **inputs) - luma)
    raise UserError(
        f"a picture of {channels} channels does not fit a network of {restorer.channels}"
        f" channels and scale {restorer.scale}"
    )


def as_tensor(picture: Picture) -> Tensor:
    """Return a picture's samples (1, C, H, W) in [0, 1], without its alpha."""
    return _to_tensor(picture.samples)


def _to_tensor(samples: Samples) -> Tensor:
    planes = samples[None] if samples.ndim == 2 else samples.transpose(2, 0, 1)
    image = torch.from_numpy(np.array(planes, dtype=np.float32, order="C"))
    return image.div_(np.iinfo(samples.dtype).max)[None]


def _to_samples(image: Tensor, dtype: np.dtype[Any]) -> Samples:
    # in place, as a picture of many megapixels exists often enough already
    scaled = image[0].mul(np.iinfo(dtype).max).clamp_(0, np.iinfo(dtype).max).round_()
    planes: Samples = scaled.numpy().astype(dtype)
    return planes[0] if len(planes) == 1 else np.ascontiguousarray(planes.transpose(1, 2, 0))


def _luma(image: Tensor) -> Tensor:
    weights = torch.tensor(_LUMA, device=image.device)[:, None, None]
    return (image * weights).sum(1, keepdim=True)
