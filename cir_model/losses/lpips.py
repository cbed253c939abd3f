"""LPIPS as a loss, by torchmetrics."""

from torch import Tensor, nn

from cir_host.errors import UserError
from cir_host.registration import register
from cir_model.metrics import perceptual


@register("loss")
class LPIPSLoss(nn.Module):
    """LPIPS by AlexNet, version 0.1, mean over the images.

    Zhang et al., The Unreasonable Effectiveness of Deep Features as a Perceptual Metric, CVPR 2018.
    One of the losses of the HIT-IIL team in the supplement of the NTIRE 2024 RAIM challenge
    (section 1.8). Needs ``pip install 'basicsr-cir[metrics]'`` and AlexNet in PyTorch's cache.

    Args:
        loss_weight: Factor of the loss.

    Raises:
        UserError: torchmetrics is not installed, or AlexNet is not in PyTorch's cache.
    """

    def __init__(self, loss_weight: float = 1.0) -> None:
        super().__init__()
        reason = perceptual.lacking("lpips")
        if reason is not None:
            raise UserError(f"LPIPSLoss: {reason}")
        from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

        self.loss_weight = loss_weight
        # the metric itself refuses values outside [0, 1], which outputs in training may have
        self.network = LearnedPerceptualImagePatchSimilarity(net_type="alex").net

    def forward(self, output: Tensor, gt: Tensor) -> Tensor:
        """Compare images (B, 3, H, W) in [0, 1], not clamped; returns a scalar."""
        distances: Tensor = self.network(output, gt, normalize=True)
        return self.loss_weight * distances.mean()
