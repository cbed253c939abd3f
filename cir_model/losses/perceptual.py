"""LPIPS and DISTS as losses, by torchmetrics.

Both need ``pip install 'basicsr-cir[metrics]'`` and a network in PyTorch's cache. Their weights are
not trained.
"""

from abc import ABC, abstractmethod

from torch import Tensor, nn

from cir_host.registration import register
from cir_model.metrics.perceptual import Metric, require


class _PerceptualDistance(nn.Module, ABC):
    """Base of the losses: the mean over the images of a distance, times ``loss_weight``.

    Args:
        metric: The distance.
        loss_weight: Factor of the loss.

    Raises:
        UserError: torchmetrics is not installed, or the network is not in PyTorch's cache.
    """

    def __init__(self, metric: Metric, loss_weight: float) -> None:
        super().__init__()
        require(metric, type(self).__name__)
        self.loss_weight = loss_weight
        self.network = self.build().requires_grad_(False)

    @abstractmethod
    def build(self) -> nn.Module:
        """Return torchmetrics' network."""

    @abstractmethod
    def distances(self, output: Tensor, gt: Tensor) -> Tensor:
        """Return the distance of each pair of images (B, 3, H, W)."""

    def forward(self, output: Tensor, gt: Tensor) -> Tensor:
        """Compare images (B, 3, H, W) in [0, 1], not clamped; returns a scalar."""
        return self.loss_weight * self.distances(output, gt).mean()


@register("loss")
class LPIPSLoss(_PerceptualDistance):
    """LPIPS by AlexNet, version 0.1, mean over the images.

    Zhang et al., The Unreasonable Effectiveness of Deep Features as a Perceptual Metric, CVPR 2018.
    One of the losses of the HIT-IIL team in the supplement of the NTIRE 2024 RAIM challenge
    (section 1.8).

    Args:
        loss_weight: Factor of the loss.

    Raises:
        UserError: torchmetrics is not installed, or AlexNet is not in PyTorch's cache.
    """

    def __init__(self, loss_weight: float = 1.0) -> None:
        super().__init__("lpips", loss_weight)

    def build(self) -> nn.Module:
        """Return torchmetrics' network."""
        from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

        # the metric itself refuses values outside [0, 1], which outputs in training may have
        network: nn.Module = LearnedPerceptualImagePatchSimilarity(net_type="alex").net
        return network

    def distances(self, output: Tensor, gt: Tensor) -> Tensor:
        """Return the distance of each pair of images (B, 3, H, W)."""
        distances: Tensor = self.network(output, gt, normalize=True)
        return distances


@register("loss")
class DISTSLoss(_PerceptualDistance):
    """DISTS by VGG16, mean over the images.

    Ding et al., Image Quality Assessment: Unifying Structure and Texture Similarity, TPAMI 2020.
    One of the losses of CODiff (Guo et al., ICCV 2025).

    Args:
        loss_weight: Factor of the loss.

    Raises:
        UserError: torchmetrics is not installed, or VGG16 is not in PyTorch's cache.
    """

    def __init__(self, loss_weight: float = 1.0) -> None:
        super().__init__("dists", loss_weight)

    def build(self) -> nn.Module:
        """Return torchmetrics' network."""
        from torchmetrics.functional.image.dists import DISTSNetwork

        network: nn.Module = DISTSNetwork()
        return network

    def distances(self, output: Tensor, gt: Tensor) -> Tensor:
        """Return the distance of each pair of images (B, 3, H, W)."""
        distances: Tensor = self.network(output, gt, require_grad=True)
        return distances
