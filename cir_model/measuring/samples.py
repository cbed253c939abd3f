"""What a collated sample says besides its images: its codec, its JPEG file, how it was made."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from cir_data.images.jpeg_planes import JpegPlanes, read_planes
from cir_host.errors import UserError

NO_FILE = "is no JPEG, or its EXIF turns it"
"""Why a sample has no JPEG file."""


def codec_of(sample: Mapping[str, Any], key: str) -> Tensor:
    """Return the codecs of a batch, int64 (B,).

    Args:
        sample: A batch of samples.
        key: The option that needs them, for the message.

    Raises:
        UserError: The samples do not name their codec.
    """
    if "codec_index" not in sample:
        raise UserError(
            f"{key}: the samples of this data set have no codec_index; UCSRDataset's do"
        )
    codecs: Tensor = sample["codec_index"]
    return codecs


def planes_of(sample: Mapping[str, Any], network: str) -> JpegPlanes:
    """Return the coefficients of the JPEG file of a sample of one image.

    Raises:
        UserError: The data set does not give the file, or it has no readable coefficients.
    """
    (path,) = sample["lq_path"]
    data = file_of(sample, network, "use one of these")
    try:
        if not data:
            raise UserError(NO_FILE)
        return read_planes(data)
    except UserError as error:
        raise UserError(f"{path}: {network} restores JPEG files; {error}") from error


def file_of(sample: Mapping[str, Any], who: str, advice: str) -> bytes:
    """Return the JPEG file of a sample of one image, empty if it is no JPEG.

    Raises:
        UserError: The data set gives no files; the text says who needs them.
    """
    if "jpeg" not in sample:
        raise UserError(
            f"{who}: {sample['lq_path'][0]} comes without its JPEG file; JPEGRestorationDataset"
            " with library: pillow gives it, and JPEGFolderDataset and PairedJPEGDataset with"
            f" color: rgb or gray; {advice}"
        )
    data: bytes = sample["jpeg"][0]
    return data


def made_by(sample: Mapping[str, Any]) -> dict[str, Any]:
    """Return how the input of a collated sample of one image was made, as plain values."""
    made_by: dict[str, Any] = {}
    for key in ("quality", "subsampling", "codec"):
        if key in sample:
            value = sample[key][0]
            made_by[key] = value.item() if isinstance(value, Tensor) else value
    return made_by
