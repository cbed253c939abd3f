"""Losses that BasicSR lacks. Importing this package registers them."""

from cir_model.losses import dct, fourier, lpips, pixel, vgg

__all__ = ["dct", "fourier", "lpips", "pixel", "vgg"]
