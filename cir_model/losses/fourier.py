"""Losses on the Fourier transform of the whole crop."""

from torch import Tensor, fft, nn

from cir_host.errors import UserError
from cir_host.registration import register

NORMS = ("backward", "forward", "ortho")


@register("loss")
class FourierLoss(nn.Module):
    """Mean absolute difference of the real and imaginary parts of the Fourier transforms.

    The frequency loss of SAFMN_BCIE (the VPEG team; Yang et al., NTIRE 2024 Challenge on Blind
    Enhancement of Compressed Image: Methods and Results, CVPR Workshops 2024, section 4.9) after
    Cho et al., Rethinking Coarse-to-Fine Approach in Single Image Deblurring, ICCV 2021.

    Args:
        loss_weight: Factor of the loss. The report does not state it; SAFMN's authors train their
            other networks with 0.05.
        norm: ``backward`` leaves the transform unscaled, so that the loss grows with the edge of
            the crop, as published; ``ortho`` divides by the square root of the number of pixels.

    Raises:
        UserError: ``norm`` is not one of torch's.
    """

    def __init__(self, loss_weight: float = 1.0, norm: str = "backward") -> None:
        super().__init__()
        self.loss_weight = loss_weight
        self.norm = _checked(norm)

    def forward(self, output: Tensor, gt: Tensor) -> Tensor:
        """Compare images (B, C, H, W) in [0, 1]; returns a scalar."""
        difference: Tensor = fft.fft2(output - gt, norm=self.norm)  # the transform is linear
        return self.loss_weight * (difference.real.abs() + difference.imag.abs()).mean() / 2


@register("loss")
class FourierDistributionLoss(nn.Module):
    """Wasserstein distances between the amplitudes and between the phases of two images.

    Equation 3 of the supplement of Liang et al., NTIRE 2024 Restore Any Image Model (RAIM) in the
    Wild Challenge, CVPR Workshops 2024 (the Image-Phoenix team). It compares distributions instead
    of pixels and tolerates shifts, so it favours sharpness over PSNR.

    The supplement does not define the distributions. Our choice: the values of one channel of one
    image over all frequencies, and the distance of order 1, which is the mean difference of the
    sorted values. The gradient of a phase grows as its amplitude vanishes, so set
    ``train.grad_clip``.

    Args:
        loss_weight: Factor of the loss.
        phase_weight: Factor of the phases (in radians) relative to the amplitudes; 0.1 in the
            supplement.
        norm: Scale of the transform as in :class:`FourierLoss`. The supplement does not state it;
            with ``ortho``, amplitudes do not depend on the size of the crop.

    Raises:
        UserError: ``norm`` is not one of torch's.
    """

    def __init__(
        self, loss_weight: float = 1.0, phase_weight: float = 0.1, norm: str = "ortho"
    ) -> None:
        super().__init__()
        self.loss_weight = loss_weight
        self.phase_weight = phase_weight
        self.norm = _checked(norm)

    def forward(self, output: Tensor, gt: Tensor) -> Tensor:
        """Compare images (B, C, H, W) in [0, 1]; returns a scalar."""
        found, wanted = (fft.fft2(image, norm=self.norm).flatten(2) for image in (output, gt))
        amplitudes = wasserstein(found.abs(), wanted.abs())
        phases = wasserstein(found.angle(), wanted.angle())
        return self.loss_weight * (amplitudes + self.phase_weight * phases)


def _checked(norm: str) -> str:
    if norm not in NORMS:
        raise UserError(f"norm {norm!r} is not one of {', '.join(NORMS)}")
    return norm


def wasserstein(first: Tensor, second: Tensor) -> Tensor:
    """Return the mean Wasserstein distance of order 1 of two sets of values (B, C, N)."""
    return (first.sort().values - second.sort().values).abs().mean()
