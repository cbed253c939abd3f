"""Losses on pixels that BasicSR lacks."""

from torch import Tensor, nn
from torchvision.transforms.v2.functional import gaussian_blur

from cir_host.errors import UserError
from cir_host.registration import register


@register("loss")
class PSNRLoss(nn.Module):
    """The negative PSNR in dB, mean over the images.

    The loss of the second phase of the PixelArtAI team's SCUNet, after Chen et al., HINet: Half
    Instance Normalization Network for Image Restoration, CVPR Workshops 2021.

    Args:
        loss_weight: Factor of the loss.
        eps: Added to the squared error, so that equal images have a finite loss: -80 dB.
    """

    def __init__(self, loss_weight: float = 1.0, eps: float = 1e-8) -> None:
        super().__init__()
        self.loss_weight = loss_weight
        self.eps = eps

    def forward(self, output: Tensor, gt: Tensor) -> Tensor:
        """Compare images (B, C, H, W) in [0, 1]; returns a scalar, usually negative."""
        errors = (output - gt).square().mean(dim=(1, 2, 3))
        return self.loss_weight * 10 * (errors + self.eps).log10().mean()


@register("loss")
class BlurResidualLoss(nn.Module):
    """Mean absolute difference of the details that a Gaussian blur removes.

    One of the losses of HFT (the UCAS_SCST team; Yang et al., NTIRE 2024 Challenge on Blind
    Enhancement of Compressed Image: Methods and Results, CVPR Workshops 2024, section 4.7), which
    constrains "the residuals after Gaussian blurring" for its high frequencies. The report states
    neither the kernel nor the norm nor the weight. Our choice: the image minus its blurred copy,
    padded by reflection, the L1 norm, and the Gaussian of SSIM.

    Args:
        loss_weight: Factor of the loss.
        kernel_size: Size of the Gaussian in pixels, odd.
        sigma: Standard deviation of the Gaussian in pixels.

    Raises:
        UserError: ``kernel_size`` is not odd, or ``sigma`` is not positive.
    """

    def __init__(self, loss_weight: float = 1.0, kernel_size: int = 11, sigma: float = 1.5) -> None:
        super().__init__()
        if kernel_size < 1 or kernel_size % 2 == 0:
            raise UserError(f"BlurResidualLoss: kernel_size {kernel_size} is not an odd number")
        if sigma <= 0:
            raise UserError(f"BlurResidualLoss: sigma {sigma} is not above 0")
        self.loss_weight = loss_weight
        self.kernel_size = kernel_size
        self.sigma = sigma

    def forward(self, output: Tensor, gt: Tensor) -> Tensor:
        """Compare images (B, C, H, W) in [0, 1], larger than half the kernel; returns a scalar."""
        difference = output - gt  # the blur is linear
        blurred: Tensor = gaussian_blur(difference, [self.kernel_size] * 2, [self.sigma] * 2)
        return self.loss_weight * (difference - blurred).abs().mean()
