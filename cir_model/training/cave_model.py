"""``CaVEModel``: trains a network to predict the quality of a JPEG and to restore it."""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from basicsr.losses import build_loss
from basicsr.metrics import calculate_metric
from torch import Tensor, nn

from cir_arch.running import facts_of
from cir_host.errors import OptionsError, UserError
from cir_host.registration import register
from cir_model.measuring.validation import evaluating
from cir_model.options import CaVETrainOptions
from cir_model.training.cir_model import CIRModel

QUALITY_ERROR = "calculate_quality_error"

_PATIENCE = 20
"""The training ends if this many batches have no known quality, the first among them."""


@register("model")
class CaVEModel(CIRModel):
    """Trains a network that returns image and quality, such as CaVE or FBCNN, on both.

    This is the dual learning of Guo et al., Compression-Aware One-Step Diffusion Model for JPEG
    Artifact Removal, ICCV 2025, section 3.2: L = L_QF + 1000 L_rec. L_QF is ``train.quality_opt``
    (explicit learning), L_rec is ``train.pixel_opt`` (implicit learning); either can be omitted.
    The loss compares qualities on the network's scale, 1 - QF / 100.

    Validation has one more metric, ``calculate_quality_error``.
    """

    train_options_type = CaVETrainOptions
    options_types: ClassVar = {**CIRModel.options_types, "train": CaVETrainOptions}
    options: CaVETrainOptions

    def rehearse(self, network: nn.Module) -> None:
        """Check the options like :class:`CIRModel`, and that the network predicts a quality.

        Raises:
            OptionsError: It does not, or the options do not fit the network.
        """
        facts = facts_of(network)
        if facts is None or "quality" not in facts.extra_outputs:
            raise OptionsError(
                f"network_g.type: {type(network).__name__} predicts no quality, which"
                " model_type: CaVEModel trains; use one that does, such as CaVE or FBCNN, or"
                " model_type: CIRModel"
            )
        options = self.train_options(self.opt)
        assert isinstance(options, CaVETrainOptions)  # train_options_type
        if options.teacher_forcing and "quality" not in facts.extra_inputs:
            raise OptionsError(
                f"train.teacher_forcing: {type(network).__name__} does not take the quality; FBCNN"
                " does"
            )
        super().rehearse(network)

    def init_training_settings(self) -> None:
        """Set up the training, with the loss on the quality."""
        super().init_training_settings()
        section = self.options.quality_opt
        self.quality_loss = build_loss(section).to(self.device) if section else None
        self._without_quality = 0

    def feed_data(self, data: Mapping[str, Any]) -> None:
        """Move a batch to the device: images, and ``quality`` (B,), -1 if unknown.

        Raises:
            UserError: The loss needs qualities, and the batches so far had none.
        """
        needed = self.options.quality_opt or self.options.teacher_forcing
        if self.is_train and needed and self._without_quality >= 0:
            self._look_for_qualities(data.get("quality"))
        super().feed_data(data)

    def _look_for_qualities(self, qualities: Tensor | None) -> None:
        """Count a batch without qualities; a batch with one ends the search.

        The search must end, since with the CUDA prefetcher each look waits for the GPU.
        """
        if qualities is not None and (qualities >= 1).any():
            self._without_quality = -1
            return
        self._without_quality += 1
        if qualities is None or self._without_quality == _PATIENCE:
            key = "quality_opt" if self.options.quality_opt else "teacher_forcing"
            raise UserError(
                f"train.{key} needs the quality of each sample, which datasets.train does not give;"
                " JPEGRestorationDataset with the key quality does"
            )

    def compute_losses(
        self, lq: Tensor, gt: Tensor, facts: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """Return the losses on the images and ``l_quality``."""
        strength = _strength(facts.get("quality", lq.new_full((len(lq),), -1)))
        given = {"quality": strength} if self.options.teacher_forcing else {}
        with self.autocast():
            output, predicted = self.network(lq, return_quality=True, **given)
        losses: dict[str, Tensor] = self.losses(output.float(), gt, facts)
        if self.quality_loss is not None:
            # equal values add nothing to the mean; then it is taken over the known ones alone
            known = ~strength.isnan()
            wanted = torch.where(known, strength, predicted.detach().float())
            share = known.float().mean().clamp_min(1 / len(known))
            losses["l_quality"] = self.quality_loss(predicted.float(), wanted) / share
        return losses

    def _restore(self, sample: Mapping[str, Any]) -> dict[str, Any]:
        """Restore a sample, and predict its quality if a metric needs it."""
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
        """Add the scores of the predicted quality, which the input does not have."""
        of_quality = _metrics_of_quality(metrics)
        others = {name: section for name, section in metrics.items() if name not in of_quality}
        scores = super()._scores(others, images)
        data = {key: images[key] for key in ("predicted_quality", "quality") if key in images}
        for name, section in of_quality.items():
            scores[name] = {"output": calculate_metric(data, section)} if len(data) == 2 else {}
        return scores


def _strength(quality: Tensor) -> Tensor:
    """Return 1 - QF / 100 of qualities (B,) as (B, 1), NaN where they are unknown."""
    column = quality[:, None].float()
    return torch.where(column >= 1, 1 - column / 100, torch.nan)


def _metrics_of_quality(metrics: Mapping[str, Any]) -> dict[str, Any]:
    return {name: section for name, section in metrics.items() if section["type"] == QUALITY_ERROR}
