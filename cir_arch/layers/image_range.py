"""The range of values that a network computes with."""

import torch
from torch import Tensor, nn

RGB_MEAN = (0.4488, 0.4371, 0.4040)
"""Mean of the DIV2K images, subtracted from colour images (Lim et al., EDSR, CVPR Workshops 2017).
"""


class ImageRange(nn.Module):
    """Subtracts the mean of colour images and multiplies by ``img_range``, and back again.

    Images of other than three channels have the mean 0. Nothing enters the state dict.
    """

    def __init__(self, channels: int, img_range: float) -> None:
        super().__init__()
        self.img_range = img_range
        self.mean: Tensor
        mean = RGB_MEAN if channels == len(RGB_MEAN) else (0.0,) * channels
        self.register_buffer("mean", torch.tensor(mean).reshape(-1, 1, 1), persistent=False)

    def enter(self, x: Tensor) -> Tensor:
        """Map images (B, C, H, W) in [0, 1] to the network's range."""
        return (x - self.mean) * self.img_range

    def leave(self, y: Tensor) -> Tensor:
        """Map (B, C, H, W) back: the inverse of :meth:`enter`."""
        return y / self.img_range + self.mean
