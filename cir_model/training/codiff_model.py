"""``CODiffModel``: trains CODiff, low-rank changes of Stable Diffusion."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from cir_diffusion.checkpoint import read_trained_parts
from cir_diffusion.codiff import LATENT
from cir_diffusion.codiff_lora import CODiffLoRA, state_of
from cir_diffusion.discriminator import SMALLEST_LATENT, CODiffDiscriminator
from cir_host.checkpoint_files import read_file
from cir_host.errors import OptionsError
from cir_host.file_names import printable
from cir_host.loading import load_into, log_load
from cir_host.registration import register
from cir_model.training.cir_gan_model import CIRGANModel

_SMALLEST_CROP = SMALLEST_LATENT * LATENT


@register("model")
class CODiffModel(CIRGANModel):
    """Trains CODiff by Guo et al., ICCV 2025, stage 2, against a discriminator of latents.

    The step is that of :class:`CIRGANModel`, but ``net_d`` judges latents: those from which the VAE
    decodes the restored images, and those of the ground truth by the base's own VAE.

    A file of ``net_g`` is also a ``codiff.pkl`` as the authors' release writes it, of the EMA
    weights if there are any. ``path.pretrain_network_g`` takes either.
    """

    def rehearse(self, network: nn.Module) -> None:
        """Check the options like :class:`CIRGANModel`, and that the networks are CODiff's.

        Raises:
            OptionsError: They are not, crops are too small for the discriminator, or the options do
                not fit the networks.
        """
        kind = (self.opt.get("network_d") or {}).get("type", "missing")
        if not isinstance(network, CODiffLoRA):
            raise OptionsError(
                f"network_g.type: {type(network).__name__} is not CODiffLoRA, which model_type:"
                " CODiffModel trains"
            )
        if kind.removesuffix("_cir") != CODiffDiscriminator.__name__:
            raise OptionsError(
                "network_d.type: model_type: CODiffModel needs CODiffDiscriminator, which judges"
                f" latents; it is {kind}"
            )
        sizes = {"datasets.train.gt_size": self.opt["datasets"]["train"].get("gt_size")}
        for index, stage in enumerate(self.train_options(self.opt).progressive):
            sizes[f"train.progressive[{index}].gt_size"] = stage.gt_size
        for key, size in sizes.items():
            if size is None or size < _SMALLEST_CROP or size % LATENT:
                raise OptionsError(
                    f"{key}: must be a multiple of {LATENT}, at least {_SMALLEST_CROP}, from which"
                    f" CODiffDiscriminator can judge; it is {size}"
                )
        super().rehearse(network)

    def load_network(
        self, net: nn.Module, load_path: str, strict: bool = True, param_key: str | None = "params"
    ) -> None:
        """Load a file of a training here, or CODiff's as the release writes it.

        Raises:
            UserError: The file is missing or damaged, or does not fit.
        """
        bare = self.get_bare_model(net)
        if not isinstance(bare, CODiffLoRA) or not _is_of_the_release(Path(load_path)):
            super().load_network(net, load_path, strict, param_key)
            return
        source = printable(str(load_path))
        state = state_of(read_trained_parts(Path(load_path)))
        report = load_into(bare, state, strict, source, testing=not self.is_train)
        log_load(self, bare, report, source)

    def restored(self, lq: Tensor, facts: Mapping[str, Tensor]) -> Tensor:
        """Run the network on a batch; returns images in float32, in [0, 1]."""
        output: Tensor
        with self.autocast():
            output, self._latent = self.network(lq, return_latent=True)
        return output

    def judged_of_output(self, output: Tensor) -> Tensor:
        """Return the latents of the restored images, with their gradients."""
        latent: Tensor = self._latent
        return latent

    def judged_of_truth(self, gt: Tensor) -> Tensor:
        """Return latents of ground truth by the base's own VAE, sampled."""
        with self.autocast():
            latent: Tensor = self.get_bare_model(self.net_g).latent_by_base(gt)
        return latent

    def entries_for_others(self, state: Mapping[str, Tensor]) -> dict[str, Any]:
        """Return what makes a file of ``net_g`` a ``codiff.pkl``, see ``save_network``."""
        entries: dict[str, Any] = self.get_bare_model(self.net_g).release_entries(state)
        return entries


def _is_of_the_release(path: Path) -> bool:
    """Whether a file has CODiff's weights under the release's keys alone."""
    content = read_file(path).content
    return "state_dict_unet" in content and "params" not in content
