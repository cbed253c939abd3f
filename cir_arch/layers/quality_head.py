"""Predicts how strongly an image was compressed."""

from torch import Tensor, nn

from cir_arch.layers.residual_conv import ResBlock
from cir_arch.layers.residual_unet import ResidualEncoder


class QualityHead(nn.Sequential):
    """Maps features (B, C, H, W) to one number in (0, 1) per image, (B, 1): 1 - QF / 100.

    Residual blocks, mean over the image, three linear layers: the quality factor predictor of Jiang
    et al., Towards Flexible Blind JPEG Artifacts Removal, ICCV 2021.
    """

    def __init__(
        self, channels: int, hidden: int, blocks: int, act_mode: str, use_checkpoint: bool
    ) -> None:
        super().__init__(
            *(ResBlock(channels, act_mode, use_checkpoint) for _ in range(blocks)),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(channels, hidden),
            nn.ReLU(),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
            nn.Linear(hidden, 1),
            nn.Sigmoid(),
        )


class QualityPredictor(ResidualEncoder):
    """Base of the networks that predict the quality, unless they say otherwise by ``qf_pred``.

    It sees the lowest level of the encoder.
    """

    qf_pred: QualityHead

    def predict_quality(self, x: Tensor) -> Tensor:
        """Return the JPEG quality factor (B, 1), in 0..100, of images (B, C, H, W)."""
        quality: Tensor = self.qf_pred(self.encode(x)[-1])
        return 100 * (1 - quality)
