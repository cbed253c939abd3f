"""``CIRGANModel``: trains with a GAN loss, for perceptual quality rather than PSNR."""

from collections.abc import Mapping
from functools import partial
from typing import ClassVar

import torch
from basicsr.archs import build_network
from basicsr.losses import build_loss
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_

from cir_host.errors import OptionsError
from cir_host.registration import register
from cir_model.options import GANTrainOptions
from cir_model.training.cir_model import CIRModel
from cir_model.training.running_statistics import RunningStatistics


@register("model")
class CIRGANModel(CIRModel):
    """Trains ``net_g`` like :class:`CIRModel`, and ``net_d`` to tell its outputs from ground truth.

    A step is that of BasicSR's ``SRGANModel``: ``net_g`` minimises its losses and ``l_gan``;
    ``net_d`` minimises its errors on the ground truth (``l_d_real``) and on the same outputs
    (``l_d_fake``). Gradient accumulation, gradient clipping and mixed precision are supported. If a
    value of either network is not finite, both skip the step.
    """

    train_options_type = GANTrainOptions
    options_types: ClassVar = {**CIRModel.options_types, "train": GANTrainOptions}
    options: GANTrainOptions

    def rehearse(self, network: nn.Module) -> None:
        """Check the options like :class:`CIRModel`, and that there is a discriminator.

        Raises:
            OptionsError: There is none, or the options do not fit the network.
        """
        if not self.opt.get("network_d"):
            raise OptionsError(
                "network_d: missing; model_type: CIRGANModel trains a discriminator, such as"
                " {type: UNetDiscriminatorSN, num_in_ch: 3}"
            )
        super().rehearse(network)

    def init_training_settings(self) -> None:
        """Set up the training, with the discriminator."""
        paths = self.opt["path"]
        self.net_d = self.model_to_device(build_network(self.opt["network_d"]))
        self.print_network(self.net_d)
        if (path := paths.get("pretrain_network_d")) is not None:
            key = paths.get("param_key_d", "params")
            self.load_network(self.net_d, path, paths.get("strict_load_d", True), key)
        self.net_d.train()
        self.trained_d = [p for p in self.net_d.parameters() if p.requires_grad]
        self.gan_loss = build_loss(self.opt["train"]["gan_opt"]).to(self.device)
        self._outputs: list[Tensor] = []
        super().init_training_settings()
        self.statistics = RunningStatistics(self.net_g, self.net_d)

    def setup_optimizers(self) -> None:
        """Build the optimizers of both networks."""
        super().setup_optimizers()
        arguments = dict(self.opt["train"]["optim_d"])
        optimizer = self.get_optimizer(arguments.pop("type"), self.trained_d, **arguments)
        self.optimizers.append(optimizer)

    def backward(self) -> dict[str, Tensor]:
        """Compute the gradients of both networks."""
        self._train_discriminator(False)
        losses = super().backward()
        self._train_discriminator(True)
        outputs = torch.cat(self._outputs)
        self._outputs.clear()
        for real, images in ((True, self.gt), (False, outputs)):
            losses |= self.accumulate(self.net_d, partial(self._judge, real), {"images": images})
        return losses

    def _train_discriminator(self, trained: bool) -> None:
        for parameter in self.trained_d:
            parameter.requires_grad_(trained)

    def compute_losses(
        self, lq: Tensor, gt: Tensor, facts: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """Return the losses of ``net_g``, with ``l_gan``."""
        output = self.restored(lq, facts)
        judged = self.judged_of_output(output)
        self._outputs.append(judged.detach())
        # not through DistributedDataParallel, which would wait for gradients of net_d
        verdict = self._verdict(self.get_bare_model(self.net_d), judged)
        gan = self.gan_loss(verdict, True, is_disc=False)
        return {**self.losses(output, gt, facts), "l_gan": gan}

    def judged_of_output(self, output: Tensor) -> Tensor:
        """Return what ``net_d`` sees of restored images, with their gradients; by default these."""
        return output

    def judged_of_truth(self, gt: Tensor) -> Tensor:
        """Return what ``net_d`` sees of ground truth (B, C, H, W); by default this."""
        return gt

    def clip(self) -> dict[str, Tensor]:
        """Clip the gradient of each network by itself."""
        limit = self.options.grad_clip or float("inf")
        return {**super().clip(), "grad_norm_d": clip_grad_norm_(self.trained_d, limit)}

    def save(self, epoch: int, current_iter: int) -> None:
        """Save both networks and the training state."""
        self.save_network(self.net_d, "net_d", current_iter)
        super().save(epoch, current_iter)

    def _judge(self, real: bool, images: Tensor) -> dict[str, Tensor]:
        """Return the loss of ``net_d`` on ground truth (``real``) or on outputs."""
        judged = self.judged_of_truth(images) if real else images
        loss = self.gan_loss(self._verdict(self.net_d, judged), real, is_disc=True)
        return {"l_d_real" if real else "l_d_fake": self.options.d_loss_weight * loss}

    def _verdict(self, discriminator: nn.Module, images: Tensor) -> Tensor:
        with self.autocast():
            verdict: Tensor = discriminator(images)
        return verdict.float()
