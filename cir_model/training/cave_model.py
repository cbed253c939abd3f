"""``CaVEModel``: trains a network to tell the quality of a JPEG and to restore it."""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from basicsr.losses import build_loss
from basicsr.metrics import calculate_metric
from torch import Tensor, nn

from cir_arch.basicsr_networks import facts_of
from cir_host.errors import OptionsError, UserError
from cir_host.registration import register
from cir_model.measuring.validation import evaluating
from cir_model.training.cir_model import CIRModel
from cir_model.training.options import CaVETrainOptions

QUALITY_ERROR = "calculate_quality_error"


@register("model")
class CaVEModel(CIRModel):
    """Trains a network that returns image and quality, such as CaVE and FBCNN, by both.

    The dual learning of Guo et al., Compression-Aware One-Step Diffusion Model for JPEG Artifact
    Removal, ICCV 2025, section 3.2: L = L_QF + 1000 L_rec. L_QF is ``train.quality_opt``, explicit
    learning; L_rec is ``train.pixel_opt``, implicit learning; either can be left out. Qualities are
    compared as the network gives them, 1 - QF / 100.

    Validation has a metric more, ``calculate_quality_error``.
    """

    train_options_type = CaVETrainOptions
    options_types: ClassVar = {**CIRModel.options_types, "train": CaVETrainOptions}
    options: CaVETrainOptions

    def rehearse(self, network: nn.Module) -> None:
        """Do what :class:`CIRModel` does, and see that the network predicts a quality.

        Raises:
            OptionsError: It does not, or what :class:`CIRModel` raises.
        """
        facts = facts_of(network)
        if facts is None or "quality" not in facts.extra_outputs:
            raise OptionsError(
                f"network_g.type: {type(network).__name__} predicts no quality, which"
                " model_type: CaVEModel trains; take CaVE or FBCNN, or model_type: CIRModel"
            )
        super().rehearse(network)

    def init_training_settings(self) -> None:
        """Set up the loss of the quality beside all else."""
        super().init_training_settings()
        section = self.options.quality_opt
        self.quality_loss = build_loss(section).to(self.device) if section else None

    def feed_data(self, data: Mapping[str, Any]) -> None:
        """Take a batch with ``quality`` (B,), 1 to 100, beside the images.

        Raises:
            UserError: The quality of a sample is needed and not known.
        """
        if self.is_train and self.options.quality_opt:
            qualities = data.get("quality")
            if qualities is None or (qualities < 1).any():
                raise UserError(
                    "train.quality_opt needs the quality of each sample, which datasets.train does"
                    " not tell; JPEGRestorationDataset with the key quality does"
                )
        super().feed_data(data)

    def compute_losses(
        self, lq: Tensor, gt: Tensor, facts: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """Add ``l_quality`` to the losses of the images."""
        with self.autocast():
            output, predicted = self.network(lq, return_quality=True)
        losses: dict[str, Tensor] = self.losses(output.float(), gt, facts)
        if self.quality_loss is not None:
            wanted = 1 - facts["quality"][:, None].float() / 100
            losses["l_quality"] = self.quality_loss(predicted.float(), wanted)
        return losses

    def _restore(self, sample: Mapping[str, Any]) -> dict[str, Any]:
        """Predict the quality of the whole image too, where a metric asks for it."""
        images = super()._restore(sample)
        if _metrics_of_quality(self.validation_options.metrics or {}):
            network = self.restorer.networks[0]
            with evaluating(network), torch.inference_mode():
                _, strength = network(sample["lq"].to(self.device), return_quality=True)
            images["predicted_quality"] = 100 * (1 - strength.item())
            if "quality" in sample and sample["quality"].item() > 0:
                images["quality"] = sample["quality"].item()
        return images

    def _scores(
        self, metrics: Mapping[str, Any], images: Mapping[str, Any]
    ) -> dict[str, dict[str, float]]:
        """Measure the prediction alone by its metric, which has no value for the input."""
        of_quality = _metrics_of_quality(metrics)
        others = {name: section for name, section in metrics.items() if name not in of_quality}
        scores = super()._scores(others, images)
        data = {key: images[key] for key in ("predicted_quality", "quality") if key in images}
        for name, section in of_quality.items():
            scores[name] = {"output": calculate_metric(data, section)} if len(data) == 2 else {}
        return scores


def _metrics_of_quality(metrics: Mapping[str, Any]) -> dict[str, Any]:
    return {name: section for name, section in metrics.items() if section["type"] == QUALITY_ERROR}
