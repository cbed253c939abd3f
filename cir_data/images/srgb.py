"""CMYK and Lab converted to sRGB through colour profiles."""

import io
from functools import cache

from PIL import Image, ImageCms


@cache
def srgb_profile() -> bytes:
    """Return an ICC profile of sRGB.

    Example:
        >>> ImageCms.ImageCmsProfile(io.BytesIO(srgb_profile())).profile.xcolor_space
        'RGB '
    """
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def to_srgb(image: Image.Image, profile: bytes | None, notes: list[str]) -> Image.Image:
    """Convert a CMYK or Lab image to RGB.

    Args:
        image: A loaded image of mode ``CMYK`` or ``LAB``.
        profile: The ICC profile of the file; CMYK without a usable one is converted by formula.
        notes: Gets a line for the user if the formula was used.
    """
    if image.mode == "LAB":
        source = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB"))
    elif profile is None:
        notes.append("CMYK without a profile; converted by formula")
        return image.convert("RGB")
    else:
        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        except OSError:
            notes.append("CMYK with a damaged profile; converted by formula")
            return image.convert("RGB")
    try:
        converted = ImageCms.profileToProfile(
            image,
            source,
            ImageCms.createProfile("sRGB"),
            renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
            outputMode="RGB",
            flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
    except ImageCms.PyCMSError:
        notes.append(f"{image.mode} with a profile of another kind; converted by formula")
        return image.convert("RGB")
    assert converted is not None  # only a conversion in place returns None
    return converted
