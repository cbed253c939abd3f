"""What every tool needs to know about a network, as data."""

from dataclasses import dataclass
from typing import Literal

from cir_arch.layers.padding import PaddingRule

Precision = Literal["fp32", "bf16", "fp16"]
InputKind = Literal["pixels", "coefficients"]


@dataclass(frozen=True)
class NetworkFacts:
    """Facts about one network object. Tests prove each; command, tiler and documentation read them.

    Sizes and counts are exact: the tests fail for a larger value as well as for a smaller one.
    """

    size_multiple: int
    """Heights and widths that are multiples of this need no padding; the smallest such number.

    A tile that begins at a multiple of it is processed like the same part of the whole image.
    """
    min_size: int
    """Smallest height and width that ``forward`` accepts."""
    scale: int
    """Output size over input size."""
    halo: int | None
    """Receptive-field radius: farthest input pixel, in rows or columns, that an output pixel uses.

    Where the radius depends on the pixel's position, because of windows or strides, it is the
    largest over all positions in an image that begins at a multiple of ``size_multiple``. A
    network with ``scale`` above 1 counts from the input pixel under the output pixel. None: no
    radius holds for images of all sizes.
    """
    in_channels: int
    """Channels of input and output images; of coefficients there are as many planes."""
    precisions: frozenset[Precision]
    """Precisions in which the network is known to give accurate values under autocast."""
    padding: PaddingRule | None = None
    """How the network pads images of other sizes.

    None: it pads none, or as SwinIR's authors do.
    """
    extra_outputs: tuple[str, ...] = ()
    """Names of what ``forward`` returns besides the image, each if ``return_NAME`` is true."""
    pads_itself: bool = True
    """False: ``forward`` takes multiples of ``size_multiple`` only, and the caller pads.

    :func:`cir_arch.running.run` does.
    """
    has_weights: bool = True
    """False: there is nothing to load, so testing without a checkpoint makes sense."""
    extra_inputs: tuple[str, ...] = ()
    """Names of the arguments that ``forward`` takes besides the image and ``return_NAME``."""
    channels_last: bool = False
    """Maps stay in the memory format ``channels_last`` if the image has it, and on CPUs that is
    faster. The values may differ in the last bits.
    """
    input_kind: InputKind = "pixels"
    """``coefficients``: ``forward`` takes no image but the DCT coefficients of a JPEG and its
    quantisation tables, as planes of the image's size, see :mod:`cir_arch.layers.jpeg_planes`.

    Height and width are then multiples of ``min_size``, and what lies beyond the picture is cut off
    by the caller.
    """
    whole_images: bool = False
    """True: ``forward`` takes only whole images, as they are, since parts of the result depend on
    the whole image. Where memory asks for it, it tiles its own work if it gets ``tile`` and
    ``overlap``, in pixels.
    """
    fast_precision: Precision = "bf16"
    """The precision to choose on devices that compute it fast."""
    generative: bool = False
    """True: the network invents plausible detail, so a result is not the likeliest image."""
