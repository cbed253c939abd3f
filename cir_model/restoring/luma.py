"""The luma of images, as JPEG computes it."""

from torch import Tensor

from cir_arch.layers.dct import LUMA


def luma(image: Tensor) -> Tensor:
    """Return the luma (B, 1, H, W) of images (B, 1 or 3, H, W) by ITU-R BT.601, as in JPEG."""
    if image.shape[1] == 1:
        return image
    return (image * image.new_tensor(LUMA)[:, None, None]).sum(1, keepdim=True)
