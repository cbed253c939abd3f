"""Restore images in memory in three lines of Python, without files and options."""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from msgspec.structs import replace
from PIL import Image
from torch import nn

from cir_arch import load_network
from cir_data.images.channels import plain_mode
from cir_data.images.metadata import Metadata
from cir_data.images.reading import Picture
from cir_host.errors import UserError
from cir_model.restoring.consistency import can_hold
from cir_model.restoring.inference import Restorer
from cir_model.restoring.pictures import restore_picture
from cir_model.restoring.settings import InferenceOptions
from cir_weights import default_weights

USUAL = InferenceOptions(tile="auto", precision="auto", consistency=True)
"""The settings of ``basicsr restore`` without flags."""

ImageOrArray = TypeVar("ImageOrArray", Image.Image, npt.NDArray[Any])


@functools.cache
def default_restorer(device: str | None = None) -> Restorer:
    """Return a restorer with the bundled weights; results of JPEG files are held to the file.

    Args:
        device: An argument of ``torch.device``; None: the first GPU if there is one, else the CPU.

    Example:
        >>> import torch
        >>> from cir_model import default_restorer
        >>> restorer = default_restorer("cpu")
        >>> restorer(torch.rand(1, 3, 48, 64)).shape
        torch.Size([1, 3, 48, 64])
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    return load_restorer(default_weights(), device, USUAL)


def load_restorer(weights: Path, device: str | torch.device, options: InferenceOptions) -> Restorer:
    """Return a restorer with the network of a checkpoint; see :func:`restorer_of`.

    Raises:
        UserError: The file cannot be loaded, or its network does not take the options.
    """
    return restorer_of([load_network(weights)], [str(weights)], device, options)


def restorer_of(
    networks: Sequence[nn.Module],
    names: Sequence[str],
    device: str | torch.device,
    options: InferenceOptions,
    averaging: Sequence[float] | None = None,
) -> Restorer:
    """Move networks to a device and return a restorer with them.

    Args:
        networks: In evaluation mode.
        names: Of the networks, for messages.
        device: An argument of ``torch.device``.
        options: With ``consistency``, results are held to their files if these can be read.
        averaging: Weights of the networks in the average; None: equal weights.

    Raises:
        UserError: See :class:`Restorer`.
    """
    options = replace(options, consistency=options.consistency and can_hold())
    return Restorer([network.to(device) for network in networks], options, names, averaging)


def restore_image(image: ImageOrArray, restorer: Restorer | None = None) -> ImageOrArray:
    """Restore an image.

    Args:
        image: A Pillow image; or an array, (H, W) grey, (H, W, 3) RGB or (H, W, 4) RGB and alpha,
            of ``uint8``, ``uint16``, or floating-point numbers in [0, 1].
        restorer: The network; None: the bundled weights.

    Returns:
        The same kind: an image with the metadata that Pillow keeps, or an array of the same dtype.
        Alpha is kept. Pillow images of modes other than grey and RGB are returned as RGB.

    Raises:
        UserError: The image has 32 bits per sample, whose range is unknown, or an array has another
            shape or dtype.

    Example:
        >>> from PIL import Image
        >>> from cir_model import restore_image
        >>> restore_image(Image.new("RGB", (48, 32), "teal")).size
        (48, 32)
    """
    restorer = restorer or default_restorer()
    if isinstance(image, Image.Image):
        restored = Image.fromarray(_restored(_samples_of(image), restorer))
        restored.info = dict(image.info)
        return restored
    if np.issubdtype(image.dtype, np.floating):
        samples = np.clip(image * 65535, 0, 65535).round().astype(np.uint16)
        return (_restored(samples, restorer) / 65535).astype(image.dtype)
    return _restored(image, restorer)


def _samples_of(image: Image.Image) -> npt.NDArray[Any]:
    if image.mode in ("I", "F"):
        raise UserError(
            f"a Pillow image of mode {image.mode} has 32 bits per sample, whose range is"
            " unknown; convert it to L, RGB or I;16"
        )
    if image.mode.startswith("I;16"):
        return np.asarray(image).astype(np.uint16)
    return np.asarray(image.convert(plain_mode(image)))


def _restored(samples: npt.NDArray[Any], restorer: Restorer) -> npt.NDArray[Any]:
    channels = samples.shape[2] if samples.ndim == 3 else 1
    sound = samples.ndim in (2, 3) and channels in (1, 2, 3, 4) and samples.size
    if not sound or samples.dtype not in (np.uint8, np.uint16):
        raise UserError(
            f"an array of shape {samples.shape} and dtype {samples.dtype} is not an image; give"
            " (H, W), (H, W, 3) or (H, W, 4) of uint8, uint16 or floating-point numbers in [0, 1]"
        )
    planes = np.atleast_3d(samples)
    has_alpha = channels in (2, 4)
    colour = planes[..., : channels - has_alpha]
    alpha = np.ascontiguousarray(planes[..., -1]) if has_alpha else None
    picture = Picture(
        np.ascontiguousarray(colour[..., 0] if colour.shape[2] == 1 else colour), alpha, Metadata()
    )
    restored = restore_picture(restorer, picture)
    if restored.alpha is not None:
        return np.dstack([restored.samples, restored.alpha])
    return restored.samples.reshape(*restored.samples.shape[:2], *samples.shape[2:])
