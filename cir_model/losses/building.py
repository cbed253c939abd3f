"""The losses of a training run, each with its weight and its name in the log."""

from collections.abc import Mapping
from typing import Any

import torch
from basicsr.losses import build_loss
from torch import Tensor, nn

from cir_host.errors import OptionsError, UserError
from cir_model.losses.vgg import weights_of_vgg
from cir_model.options import Arguments, TrainOptions


class Losses(nn.Module):
    """All losses of ``train``; the weight of each is one of its arguments.

    If a loss has ``sample_keys``, it also gets these tensors of the samples, by name.

    Args:
        options: The section ``train``.
    """

    def __init__(self, options: TrainOptions) -> None:
        super().__init__()
        self.pixel = build_loss(options.pixel_opt) if options.pixel_opt else None
        section = options.perceptual_opt
        self.perceptual = _perceptual_loss(section) if section else None
        self.named = nn.ModuleDict({k: build_loss(v) for k, v in options.losses.items()})

    def forward(self, output: Tensor, gt: Tensor, facts: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Compute all losses.

        Args:
            output: (B, C, H, W), float32.
            gt: Ground truth of the same shape, in [0, 1].
            facts: The other tensors of the samples, with the batch on the first axis.

        Returns:
            Scalars by name in the log: ``l_pix``, ``l_percep`` and ``l_style`` as in BasicSR,
            ``l_NAME`` for the others.

        Raises:
            UserError: A loss needs a tensor that the data set does not give, or the output has not
                the shape of the ground truth, to which PyTorch might broadcast it.
        """
        if output.shape != gt.shape:
            raise UserError(
                f"network_g gives images of {_shape(output)}, but datasets.train has ground truth"
                f" of {_shape(gt)} (channels x height x width); correct the arguments of network_g,"
                " or scale or color"
            )
        found: dict[str, Tensor | None] = {}
        if self.pixel is not None:
            found["l_pix"] = self.pixel(output, gt, **_facts_for(self.pixel, facts))
        if self.perceptual is not None:
            found["l_percep"], found["l_style"] = self.perceptual(output, gt)
        for name, loss in self.named.items():
            found[f"l_{name}"] = loss(output, gt, **_facts_for(loss, facts))
        return {name: value for name, value in found.items() if value is not None}


def check_losses(options: TrainOptions) -> None:
    """Build each loss once, to check its arguments and to download the weights that it needs.

    Raises:
        OptionsError: A loss refuses its arguments, or the weights of its network are missing.
    """
    for key, section in options.loss_sections():
        try:
            if key == "perceptual_opt":
                with torch.device("meta"):
                    _perceptual_loss(section)
            else:
                build_loss(section)
        except (TypeError, ValueError, NotImplementedError, UserError) as error:
            raise OptionsError(f"train.{key}: {error}") from error
        except KeyError as error:
            raise OptionsError(f"train.{key}: {section['type']} does not know {error}") from error


def _perceptual_loss(section: Arguments) -> nn.Module:
    """Build BasicSR's perceptual loss, which loads or downloads the weights of a VGG network.

    Raises:
        UserError: The weights can neither be loaded nor downloaded.
    """
    with weights_of_vgg(section.get("vgg_type", "vgg19")):
        loss: nn.Module = build_loss(section)
    return loss


def _shape(images: Tensor) -> str:
    return "x".join(map(str, images.shape[1:]))


def _facts_for(loss: Any, facts: Mapping[str, Tensor]) -> dict[str, Tensor]:
    keys = getattr(loss, "sample_keys", ())
    for key in keys:
        if key not in facts:
            raise UserError(
                f"{type(loss).__name__} needs {key} of each sample, which datasets.train does not"
                " give; JPEGRestorationDataset does"
            )
    return {key: facts[key] for key in keys}
