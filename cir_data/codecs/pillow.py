"""WebP, AVIF, HEVC intra and JPEG XL by Pillow and its plugins.

All are lossy, except perhaps at the highest quality. None gives exact crops: prediction and
deblocking reach across blocks. Each quality is on the encoder's own scale, and no two scales agree.
For HEVC it is libheif's, 0 to 100, not a QP: to use the QP of HM or x265, use a command.
"""

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version as distribution_version
from typing import Any

import numpy as np
from PIL import Image, features

from cir_data.codecs.codec import Codec, CodecError, QualityScale
from cir_data.codecs.jpeg import JPEG
from cir_data.images.compression import Compression
from cir_data.images.geometry import Pixels, Size
from cir_data.options import CodecName
from cir_host.errors import UserError
from cir_host.extras import needs_extra

_PERCENT = QualityScale(0, 100)


@dataclass(frozen=True)
class Format:
    """A format that Pillow or one of its plugins writes."""

    name: str
    """Pillow's name of the format."""
    version: str
    subsampling: str
    scale: QualityScale = _PERCENT
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Further arguments of Pillow's ``save``."""


class PillowCodec(Codec):
    """A codec by Pillow's ``save`` and ``open``."""

    def __init__(self, form: Format) -> None:
        self._format = form

    @property
    def scale(self) -> QualityScale:
        """The qualities of the encoder."""
        return self._format.scale

    @property
    def version(self) -> str:
        """Name and version of the codec."""
        return self._format.version

    def encode(self, image: Pixels, quality: int) -> bytes:
        """Compress an image, (H, W, 3) RGB; see :meth:`Codec.encode`."""
        buffer = io.BytesIO()
        form = self._format
        try:
            Image.fromarray(image).save(buffer, form.name, quality=quality, **form.settings)
        except (OSError, ValueError, RuntimeError) as error:
            raise CodecError(f"{self.version}, quality {quality}: {error}") from error
        return buffer.getvalue()

    def decode(self, data: bytes, size: Size) -> Pixels:
        """Return the image; see :meth:`Codec.decode`."""
        try:
            return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
        except (OSError, ValueError, RuntimeError) as error:
            raise CodecError(f"{self.version}: {error}") from error

    def record(self, quality: int, grey: bool) -> Compression:
        """Return the facts of an image that :meth:`compress` gives."""
        return Compression(self.version, quality, self._format.subsampling)


def _webp() -> Codec:
    return PillowCodec(Format("WEBP", _built_in("webp", "WebP", "libwebp"), "4:2:0"))


def _avif() -> Codec:
    version = _built_in("avif", "AVIF", "libavif")
    return PillowCodec(
        Format("AVIF", version, "4:2:0", settings={"subsampling": "4:2:0", "max_threads": 1})
    )


def _hevc() -> Codec:
    heif = needs_extra("pillow_heif", "codecs", "codec: hevc")
    heif.register_heif_opener()
    info = heif.libheif_info()
    version = (
        f"HEVC intra (pillow-heif {heif.__version__}, libheif {info['libheif']}, {info['HEIF']})"
    )
    return PillowCodec(Format("HEIF", version, "4:2:0", settings={"chroma": 420}))


def _jxl() -> Codec:
    needs_extra("pillow_jxl", "codecs", "codec: jxl")
    version = f"JPEG XL (pillow-jxl-plugin {distribution_version('pillow-jxl-plugin')})"
    # 100 would be lossless, for which the plugin has another option
    return PillowCodec(Format("JXL", version, "4:4:4", QualityScale(0, 99), {"num_threads": 1}))


def _built_in(feature: str, name: str, library: str) -> str:
    if not features.check(feature):
        raise UserError(
            f"codec: {feature}: this Pillow ({features.version('pil')}) was built without it;"
            " pip install --upgrade pillow"
        )
    return f"{name} (Pillow {features.version('pil')}, {library} {features.version(feature)})"


_CODECS: dict[CodecName, Callable[[], Codec]] = {
    "jpeg": JPEG,
    "webp": _webp,
    "avif": _avif,
    "hevc": _hevc,
    "jxl": _jxl,
}


def named_codec(name: CodecName) -> Codec:
    """Return a codec by its name in options files, with default settings.

    Raises:
        UserError: A package that it needs is not installed.
    """
    return _CODECS[name]()
