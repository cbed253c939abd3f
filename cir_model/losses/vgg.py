"""A loss on the features of a VGG network, and what to do if its weights are missing."""

import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.nn.functional as F
from basicsr.archs import vgg_arch
from torch import Tensor, fft, hub, nn
from torchvision.models import get_model_weights

from cir_host.errors import UserError
from cir_host.registration import register
from cir_model.losses.fourier import wasserstein

LAYERS = ("relu1_2", "relu2_2", "relu3_4", "relu4_4", "relu5_4")
"""Of VGG19, one for each size of its maps."""


@contextmanager
def weights_of_vgg(kind: str) -> Iterator[None]:
    """Say where to put the weights of a VGG network if building it fails for want of them.

    Raises:
        UserError: The weights can neither be loaded nor downloaded.
    """
    try:
        yield
    except NotImplementedError:
        raise
    except (OSError, EOFError, RuntimeError, pickle.UnpicklingError) as error:
        file = Path(vgg_arch.VGG_PRETRAIN_PATH)
        folder = file.parent if file.exists() else Path(hub.get_dir()) / "checkpoints"
        raise UserError(
            f"cannot load the weights of {kind} ({str(error).partition(chr(10))[0]}); put"
            f" {get_model_weights(kind).DEFAULT.url} into {folder}"
        ) from error


@register("loss")
class FeatureFourierDistributionLoss(nn.Module):
    """Distances between the distributions of amplitudes and of phases of VGG19's features.

    Ni et al., Misalignment-Robust Frequency Distribution Loss for Image Transformation, CVPR 2024,
    https://arxiv.org/abs/2402.18192, which the Image-Phoenix team of the RAIM challenge cites for
    its equation 3; :class:`FourierDistributionLoss` is that equation on the images themselves.

    Amplitudes and phases of the Fourier transforms of a layer's channels each pass through the same
    random filters of unit norm; of each filter's output, the distance is the mean difference of the
    sorted values. Layers are summed. The gradient of a phase grows as its amplitude vanishes, so
    set ``train.grad_clip``.

    Args:
        loss_weight: Factor of the loss.
        phase_weight: Factor of the phases (in radians) relative to the amplitudes; 1 in the paper,
            0.1 in Image-Phoenix's report.
        num_proj: Random filters of each layer.
        patch_size: Edge of these filters.
        seed: Of the filters, which are the same in every run.

    Raises:
        UserError: The weights of VGG19 can neither be loaded nor downloaded.
    """

    def __init__(
        self,
        loss_weight: float = 1.0,
        phase_weight: float = 0.1,
        num_proj: int = 256,
        patch_size: int = 5,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.loss_weight = loss_weight
        self.phase_weight = phase_weight
        self.patch_size = patch_size
        with weights_of_vgg("vgg19"):
            self.vgg = vgg_arch.VGGFeatureExtractor(list(LAYERS), "vgg19", use_input_norm=True)
        generator = torch.Generator().manual_seed(seed)
        for layer, channels in _widths(self.vgg.vgg_net).items():
            shape = num_proj, channels, patch_size, patch_size
            filters = torch.randn(shape, generator=generator, device="cpu")
            filters /= filters.flatten(1).norm(dim=1)[:, None, None, None]
            self.register_buffer(f"filters_{layer}", filters, persistent=False)

    def forward(self, output: Tensor, gt: Tensor) -> Tensor:
        """Compare images (B, 3, H, W) in [0, 1]; returns a scalar.

        Raises:
            UserError: The smallest map of features is smaller than a filter.
        """
        least = 16 * self.patch_size
        if min(output.shape[-2:]) < least:
            raise UserError(
                f"FeatureFourierDistributionLoss: crops of {output.shape[-2]}x{output.shape[-1]}"
                f" are too small for filters of {self.patch_size}x{self.patch_size} after four"
                f" poolings; set datasets.train.gt_size to {least} or more"
            )
        found, wanted = self.vgg(output), self.vgg(gt.detach())
        return self.loss_weight * sum(
            (self._distance(layer, found[layer], wanted[layer]) for layer in LAYERS),
            start=output.new_zeros(()),
        )

    def _distance(self, layer: str, *features: Tensor) -> Tensor:
        first, second = (fft.fft2(maps) for maps in features)
        amplitudes = self._sliced(layer, first.abs(), second.abs())
        return amplitudes + self.phase_weight * self._sliced(layer, first.angle(), second.angle())

    def _sliced(self, layer: str, *maps: Tensor) -> Tensor:
        filters = self.get_buffer(f"filters_{layer}")
        first, second = (F.conv2d(values, filters).flatten(2) for values in maps)
        return wasserstein(first, second)


def _widths(layers: nn.Module) -> dict[str, int]:
    """Return the channels of :data:`LAYERS`."""
    widths, channels = {}, 0
    for name, layer in layers.named_children():
        channels = getattr(layer, "out_channels", channels)
        if name in LAYERS:
            widths[name] = channels
    return widths
