"""What every tool needs to know of a network, as data."""

from dataclasses import dataclass
from typing import Literal

from cir_arch.layers.padding import PaddingRule

Precision = Literal["fp32", "bf16", "fp16"]


@dataclass(frozen=True)
class NetworkFacts:
    """Facts about one network object. Tests prove each; CLI, tiler and documentation read them."""

    size_multiple: int
    """Height and width that are multiples of this are not padded by the network.

    Tiles that begin at multiples of it are cut as the whole image is.
    """
    min_size: int
    """Smallest height and width that ``forward`` accepts."""
    scale: int
    """Output size over input size."""
    halo: int | None
    """Pixels around an output pixel that its value depends on; None where it is the whole image."""
    in_channels: int
    """Channels of input and output images."""
    precisions: frozenset[Precision]
    """Precisions in which the network gives sound values under autocast."""
    padding: PaddingRule | None = None
    """How images of other sizes are padded; None where none is, or as SwinIR's authors do it."""
    extra_outputs: tuple[str, ...] = ()
    """Names of what ``forward`` can return beside the image."""
    pads_itself: bool = True
    """False where ``forward`` takes multiples of ``size_multiple`` only, so that the caller pads;
    :func:`cir_arch.basicsr_networks.run` does."""
    has_weights: bool = True
    """False where there is nothing to load, so that a test without a checkpoint is meant."""
    extra_inputs: tuple[str, ...] = ()
    """Names of what ``forward`` can take beside the image."""
