"""The formats in which pictures are written."""

SUFFIXES = {"png": ".png", "webp": ".webp", "jpeg": ".jpg", "tiff": ".tif"}
"""Formats that can be written, with the suffix of their files."""

SIXTEEN_BITS = {"png", "tiff"}
"""Formats that can hold 16 bits."""
