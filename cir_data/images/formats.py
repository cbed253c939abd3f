"""Which formats are read and written, by the suffixes of their files."""

SUFFIXES = {"png": ".png", "webp": ".webp", "jpeg": ".jpg", "tiff": ".tif"}
"""Formats that can be written, with the suffix of their files."""

SIXTEEN_BITS = {"png", "tiff"}
"""Formats that can hold 16 bits per sample."""

_READ_BY_PILLOW = frozenset(
    {".png", ".webp", ".bmp", ".tif", ".tiff", ".jpg", ".jpeg", ".ppm", ".pgm"}
)
"""Suffixes, in lower case, of the files that Pillow alone reads."""

IN_DATA_SETS = _READ_BY_PILLOW | {".jxl"}
"""Suffixes of the files that data sets read from a folder; JPEG XL needs a package."""

IN_FOLDERS = _READ_BY_PILLOW | {
    *(".jpe", ".jfif", ".mpo", ".gif", ".apng", ".avif", ".jp2", ".j2k", ".tga"),
}
"""Suffixes of the files that are restored when they lie in a folder, beside JPEGs of any name."""

OTHER_IMAGES = frozenset(
    {
        *(".jfif", ".jpe", ".jif", ".jfi", ".pjpeg", ".pjp", ".jp2", ".j2k"),
        *(".jpf", ".jpx", ".heic", ".heif", ".hif", ".avif", ".gif"),
        *(".apng", ".tga", ".pbm", ".pnm", ".pam", ".pfm", ".psd", ".exr"),
        *(".hdr", ".mpo", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf"),
        *(".orf", ".rw2"),
    }
)
"""Suffixes of images that data sets do not read; the user is told about them."""

FORMATS = {".jpeg": "jpeg", ".jpe": "jpeg", ".jfif": "jpeg", ".tiff": "tiff"} | {
    suffix: name for name, suffix in SUFFIXES.items()
}
"""The formats by all suffixes that select them."""
