"""CODiff in training: low-rank changes on a frozen base, and what a checkpoint holds of them.

Guo et al., Compression-Aware One-Step Diffusion Model for JPEG Artifact Removal, ICCV 2025,
https://arxiv.org/abs/2502.09873, stage 2.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cir_arch.layers.padding import checked_size
from cir_arch.state_dict import entries_below
from cir_diffusion import lora
from cir_diffusion.base import load_base
from cir_diffusion.checkpoint import TrainedParts, load_cave
from cir_diffusion.codiff import CODiff
from cir_diffusion.color_alignment import ALIGNMENTS
from cir_diffusion.lora_layers import add_lora, layers_with_lora, without_lora
from cir_diffusion.settings import Alignment
from cir_diffusion.trained_state import OnFrozenBase
from cir_host.errors import UserError
from cir_host.registration import register

PARTS_OF_UNET = {
    "encoder": ("conv_in", "down_blocks"),
    "decoder": ("up_blocks", "conv_out"),
    "others": ("mid_block",),
}
"""The blocks of each part that has its own adapter and its own list of layers in ``codiff.pkl``."""


def part_of_unet(layer: str) -> str:
    """Return the part of :data:`PARTS_OF_UNET` that has a layer."""
    first = layer.partition(".")[0]
    return next(part for part, blocks in PARTS_OF_UNET.items() if first in blocks)


def state_of(parts: TrainedParts) -> dict[str, Tensor]:
    """Return the state dict of :class:`CODiffLoRA` that the release's checkpoint holds."""
    held = {"unet": parts.state_dict_unet, "vae": parts.state_dict_vae, "proj": parts.proj}
    return {
        f"{part}.{name}": value for part, state in held.items() for name, value in state.items()
    }


@register("arch")
class CODiffLoRA(OnFrozenBase, CODiff):
    """CODiff whose low-rank changes are trained, with the UNet's first layer and the projection.

    Everything else is frozen. Its state dict has the names of CODiff's checkpoints, and only what
    is trained.

    Args:
        base: Folder of Stable Diffusion 2.1, see :data:`cir_diffusion.base.WANTED`.
        cave: Checkpoint of CaVE.
        rank_unet: Rank of the changes of the UNet.
        rank_vae: Rank of the changes of the VAE's encoder.
        sample: Sample the latent in training, as the release does, instead of taking its mean.
        align: How restored images get the colours of the input; not in training.
        use_checkpoint: Gradient checkpointing: recompute each block in the backward pass.

    Raises:
        UserError: A file is missing, damaged or of another kind, a rank is below 1, or ``align`` is
            not known.
    """

    def __init__(
        self,
        base: str,
        cave: str,
        rank_unet: int = 16,
        rank_vae: int = 16,
        sample: bool = False,
        align: Alignment = "adain",
        use_checkpoint: bool = False,
    ) -> None:
        if align not in ALIGNMENTS:
            raise UserError(f"align: {align!r} is none of {', '.join(ALIGNMENTS)}")
        parts, encoder = load_base(Path(base)), load_cave(Path(cave))
        unet: Any = parts.unet
        proj = nn.Linear(encoder.sizes.nc[3], unet.config.cross_attention_dim)
        super().__init__(parts, encoder, proj, align=align)
        self.rank_unet, self.rank_vae, self.sample = rank_unet, rank_vae, sample
        self.requires_grad_(False)
        add_lora(unet, lora.layers_of_unet(unet), rank_unet, lambda n: f"default_{part_of_unet(n)}")
        add_lora(self.vae, lora.layers_of_vae(self.vae), rank_vae, lambda _: "default_encoder")
        self.unet.conv_in.requires_grad_(True)
        self.proj.requires_grad_(True)
        if use_checkpoint:
            self.unet.enable_gradient_checkpointing()
            self.vae.enable_gradient_checkpointing()
        self.keep_trained()

    def train(self, mode: bool = True) -> "CODiffLoRA":
        """Set the mode of all parts but CaVE, which stays in evaluation mode."""
        super().train(mode)
        self.cave.eval()
        return self

    def forward(self, x: Tensor, *args: Any, return_latent: bool = False, **options: Any) -> Any:
        """Restore images (B, 3, H, W), RGB in [0, 1]; same shape and range.

        Args:
            x: Images.
            args: As those of :class:`cir_diffusion.codiff.CODiff`.
            return_latent: For training: return the images without alignment of their colours, and
                their latents (B, 4, H / 8, W / 8), float32. Sides are multiples of 8, from 32 on.
            options: As those of :class:`cir_diffusion.codiff.CODiff`.

        Raises:
            UserError: If the number of channels is not 3.
        """
        if not return_latent:
            return super().forward(x, *args, **options)
        checked_size(x, 3, type(self).__name__)
        encoded = self.latent(x, self._drawn(x) if self.sample else None)
        latent = self.denoised(encoded, self.predicted_noise(encoded, self.tokens(x)))
        return self.image(latent), latent

    @torch.no_grad()
    def latent_by_base(self, x: Tensor) -> Tensor:
        """Encode images (B, 3, 8 H, 8 W) in [0, 1] by the VAE as it was; sampled, float32."""
        with without_lora(self.vae):
            return self.latent(x, self._drawn(x))

    def release_entries(self, state: Mapping[str, Tensor]) -> dict[str, Any]:
        """Return what the release's ``codiff.pkl`` holds.

        Args:
            state: A state dict of such a network.
        """
        layers = layers_with_lora(self.unet)
        return {
            "rank_unet": self.rank_unet,
            "rank_vae": self.rank_vae,
            "vae_lora_encoder_modules": layers_with_lora(self.vae),
            **{
                f"unet_lora_{part}_modules": [n for n in layers if part_of_unet(n) == part]
                for part in PARTS_OF_UNET
            },
            "state_dict_unet": entries_below(state, "unet."),
            "state_dict_vae": entries_below(state, "vae."),
            "proj": entries_below(state, "proj."),
        }

    def _drawn(self, x: Tensor) -> Tensor:
        return torch.randn(self._latent_shape(x), device=x.device)
