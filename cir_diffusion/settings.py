"""Settings that flags and Python share; importing them imports nothing large."""

from typing import Literal, TypeAlias

Alignment: TypeAlias = Literal["adain", "wavelet", "none"]
"""How a result gets the colours of the input, see :mod:`cir_diffusion.color_alignment`."""
