"""``DiffIRModel``: trains DiffIR, stage 1 or 2; ``DiffIRGANModel`` adds a discriminator."""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from basicsr.archs import build_network
from torch import Tensor, nn
from torch import distributed as dist

from cir_arch import DiffIR
from cir_host.distributed import connected
from cir_host.errors import OptionsError, UserError
from cir_host.registration import register
from cir_model.measuring.validation import evaluating
from cir_model.options import (
    DiffIRGANTrainOptions,
    DiffIRTrainOptions,
    PriorOptions,
    TrainOptions,
)
from cir_model.training.cir_gan_model import CIRGANModel
from cir_model.training.cir_model import CIRModel

_TEMPERATURE = 0.15
"""Divides both priors before the softmax whose divergence ``kd_kl_weight`` weighs."""


@register("model")
class DiffIRModel(CIRModel):
    """Trains DiffIR by Xia et al., ICCV 2023, sections 3.2 and 3.3.

    Stage 1 gets the ground truth and has no other losses than :class:`CIRModel`. Stage 2 learns
    from ``network_s1``, a trained network of stage 1 that stays as it is: its prior of image and
    ground truth, with noise added, is where the diffusion of ``network_g`` starts, and where it
    should end. In the first ``train.prior.encoder_iter`` iterations only the prior is trained.

    Validation of stage 1 restores with the prior of image and ground truth.
    """

    train_options_type: ClassVar[type[TrainOptions]] = DiffIRTrainOptions
    options_types: ClassVar = {**CIRModel.options_types, "train": DiffIRTrainOptions}

    def rehearse(self, network: nn.Module) -> None:
        """Check the options like :class:`CIRModel`, and that the networks are of the right stages.

        Raises:
            OptionsError: They are not, or the options do not fit the networks.
        """
        if not isinstance(network, DiffIR):
            raise OptionsError(
                f"network_g.type: {type(network).__name__} is not DiffIR, which model_type:"
                f" {type(self).__name__} trains; use DiffIR, or model_type: CIRModel"
            )
        options: Any = self.train_options(self.opt)
        if network.stage == 2:
            _check_teacher(self.opt, network)
        elif options.prior is not None or self.opt.get("network_s1"):
            raise OptionsError(
                "train.prior, network_s1: a network_g of stage 1 learns from no other network;"
                " remove them, or set network_g.stage to 2"
            )
        super().rehearse(network)

    def init_training_settings(self) -> None:
        """Set up the training, with the network of stage 1 if that of stage 2 is trained."""
        self.prior_options: PriorOptions = getattr(self.options, "prior", None) or PriorOptions()
        self.bare: DiffIR = self.get_bare_model(self.net_g)
        self.net_s1: DiffIR | None = None
        if self.bare.stage == 2:
            self.net_s1 = build_network(self.opt["network_s1"]).to(self.device)
            paths = self.opt["path"]
            strict, key = paths.get("strict_load_s1", True), paths.get("param_key_s1", "params")
            self.load_network(self.net_s1, paths["pretrain_network_s1"], strict, key)
            self.net_s1.requires_grad_(False).eval()
        self.prior_alone = False
        """Whether this iteration trains only the prior."""
        super().init_training_settings()

    def update_learning_rate(self, current_iter: int, warmup_iter: int = -1) -> None:
        """Set the learning rate of an iteration, that of the prior alone or of the schedule."""
        options = self.prior_options
        first = int(options.encoder_iter) if self.net_s1 is not None else 0
        self.prior_alone = current_iter <= first
        if self.prior_alone:
            rate = options.encoder_lr / self.options.optim_g.lr * options.decay(current_iter)
            for group in self.optimizer_g.param_groups:
                group["lr"] = rate * group["initial_lr"]
            return
        if current_iter == first + 1:
            for group in self.optimizer_g.param_groups:
                group["lr"] = group["initial_lr"]
        super().update_learning_rate(current_iter - first, warmup_iter)

    def backward(self) -> dict[str, Tensor]:
        """Compute the gradients of the batch; of the prior alone if only that is trained."""
        if not self.prior_alone:
            return super().backward()
        losses = CIRModel.backward(self)  # a discriminator has nothing to judge yet
        if connected():  # the rest of the network has no gradients, which others would wait for
            for parameter in self.trained:
                if parameter.grad is not None:
                    dist.all_reduce(parameter.grad)
                    parameter.grad /= dist.get_world_size()
        return losses

    def compute_losses(
        self, lq: Tensor, gt: Tensor, facts: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """Return the losses on the images, and those on the prior."""
        if self.net_s1 is None:
            return super().compute_losses(lq, gt, {**facts, "gt": gt})
        with torch.no_grad(), self.autocast():
            wanted = self.net_s1.prior_of(lq, gt).float()
        start = self.bare.diffused(wanted, torch.randn_like(wanted))
        if self.prior_alone:
            with self.autocast():
                found = self.bare.prior_of(lq, noise=start)
            return self._of_prior(found, wanted)
        losses = super().compute_losses(lq, gt, {**facts, "start": start})
        return {**losses, **self._of_prior(self._found, wanted)}

    def restored(self, lq: Tensor, facts: Mapping[str, Tensor]) -> Tensor:
        """Run the network on a batch; returns images in float32, not clamped."""
        output: Tensor
        with self.autocast():
            if self.net_s1 is None:
                output = self.network(lq, gt=facts["gt"])
            else:
                output, self._found = self.network(lq, noise=facts["start"], return_prior=True)
        return output.float()

    def _of_prior(self, found: Tensor, wanted: Tensor) -> dict[str, Tensor]:
        """Return the losses of the prior of stage 2, given that of stage 1; both (B, P)."""
        options, losses = self.prior_options, {}
        if options.kd_l1_weight:
            losses["l_prior"] = options.kd_l1_weight * F.l1_loss(found.float(), wanted)
        if options.kd_kl_weight:
            shares = (wanted / _TEMPERATURE).softmax(dim=1)
            logarithms = (found.float() / _TEMPERATURE).log_softmax(dim=1)
            divergence = F.kl_div(logarithms, shares, reduction="batchmean")
            losses["l_kl"] = options.kd_kl_weight * divergence
        return losses

    def test(self) -> None:
        """Restore ``self.lq``; in stage 1, by the prior of the image and its ground truth.

        Raises:
            UserError: The network is of stage 1, and there is no ground truth.
        """
        network = self.restorer.networks[0]
        if isinstance(network, DiffIR) and network.stage == 1:
            if not hasattr(self, "gt"):
                raise UserError(
                    "network_g.stage: stage 1 of DiffIR restores only with the ground truth, which"
                    " this data set does not give; give dataroot_gt"
                )
            with evaluating(network), torch.inference_mode():
                prior = network.prior_of(self.lq, self.gt)
            self.extra_inputs = {**self.extra_inputs, "prior": prior}
        super().test()


@register("model")
class DiffIRGANModel(DiffIRModel, CIRGANModel):
    """Trains DiffIR like :class:`DiffIRModel`, against a discriminator as :class:`CIRGANModel`."""

    train_options_type = DiffIRGANTrainOptions
    options_types: ClassVar = {**CIRModel.options_types, "train": DiffIRGANTrainOptions}
    options: DiffIRGANTrainOptions

    def rehearse(self, network: nn.Module) -> None:
        """Check the options like both.

        Raises:
            OptionsError: They do not fit the networks or each other.
        """
        options: Any = self.train_options(self.opt)
        if options.amp == "fp16" and options.prior is not None and options.prior.encoder_iter:
            raise OptionsError(
                "train.amp: fp16 scales gradients, and the discriminator has none in the first"
                " prior.encoder_iter iterations; use bf16 or off"
            )
        super().rehearse(network)


def _check_teacher(opt: Mapping[str, Any], network: DiffIR) -> None:
    section = opt.get("network_s1")
    if not section or opt["path"].get("pretrain_network_s1") is None:
        raise OptionsError(
            "network_s1, path.pretrain_network_s1: missing; a network_g of stage 2 learns from a"
            " trained one of stage 1: network_s1: {type: DiffIR, stage: 1}"
        )
    if "network_s1" not in (opt["path"].get("ignore_resume_networks") or ()):
        raise OptionsError(
            "path.ignore_resume_networks: must be [network_s1], which is not saved with the run"
        )
    with torch.device("meta"):
        teacher = build_network(dict(section))
    if not isinstance(teacher, DiffIR) or teacher.stage != 1:
        raise OptionsError("network_s1: must be {type: DiffIR, stage: 1} and its sizes")
    for fact in ("scale", "in_channels", "prior_size"):
        mine, theirs = getattr(network, fact), getattr(teacher, fact)
        if mine != theirs:
            raise OptionsError(
                f"network_s1: its {fact} is {theirs}, that of network_g {mine}; give both the same"
                " scale, in_channels and n_feats"
            )
