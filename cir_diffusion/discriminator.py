"""The discriminator of CODiff, which judges latents.

Guo et al., Compression-Aware One-Step Diffusion Model for JPEG Artifact Removal, ICCV 2025,
https://arxiv.org/abs/2502.09873, stage 2. The time step and the sizes of the head are those of the
authors' release (MIT), https://github.com/jp-guo/CODiff. Two things are chosen here: the rank is
that of the network, and latents are judged as they are, without noise.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cir_diffusion.base import load_base
from cir_diffusion.lora import linear_and_convolutional
from cir_diffusion.lora_layers import add_lora
from cir_diffusion.trained_state import OnFrozenBase
from cir_host.registration import register

TIMESTEP = 199
"""The time step at which the UNet sees the latents."""

TOKENS = 77
"""Tokens of the learned context, as many as a text prompt of Stable Diffusion has."""

SMALLEST_LATENT = 17
"""Height and width from which the head has an output."""


@register("arch")
class CODiffDiscriminator(OnFrozenBase):
    """The first half of the base's UNet with low-rank changes, a learned context, and a small head.

    The head is trained from the start; everything of the base is frozen. Its state dict holds only
    what is trained.

    Args:
        base: Folder of Stable Diffusion 2.1, see :data:`cir_diffusion.base.WANTED`.
        rank: Rank of the changes of attention, feed-forward, convolutional and time layers.
        frozen_features: As in the authors' release: features are computed without gradients, so
            only the head is trained, and ``l_gan`` trains nothing. The paper trains with it.
        use_checkpoint: Gradient checkpointing: recompute each block in the backward pass.

    Raises:
        UserError: A file of the base is missing, damaged or of another kind, or the rank is below
            1.
    """

    def __init__(
        self,
        base: str,
        rank: int = 16,
        frozen_features: bool = False,
        use_checkpoint: bool = False,
    ) -> None:
        super().__init__()
        unet: Any = load_base(Path(base)).unet
        # without its second half, the UNet returns the features of its middle
        unet.up_blocks = nn.ModuleList()
        unet.conv_norm_out = None
        unet.conv_out = nn.Identity()
        unet.requires_grad_(False)
        layers = linear_and_convolutional(unet)
        changed = [n for n in layers if n.startswith(("down_blocks.", "mid_block."))]
        add_lora(unet, changed, rank, lambda _: "default")
        if use_checkpoint:
            unet.enable_gradient_checkpointing()
        width: int = unet.config.block_out_channels[-1]
        self.unet = unet
        self.context = nn.Parameter(torch.randn(TOKENS, unet.config.cross_attention_dim))
        self.head = nn.Sequential(
            nn.Conv2d(width, 2 * width, 4, padding=1),
            nn.GroupNorm(32, 2 * width),
            nn.SiLU(),
            nn.Conv2d(2 * width, 1, 4, padding=1),
        )
        self.frozen_features = frozen_features
        if frozen_features:
            self.requires_grad_(False)
            self.head.requires_grad_(True)
        self.keep_trained()

    def forward(self, latent: Tensor) -> Tensor:
        """Judge latents (B, 4, H, W); returns logits (B, 1, H', W'), high for ground truth.

        H and W are at least :data:`SMALLEST_LATENT`; 32 gives 2 x 2 logits.
        """
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen_features):
            context = self.context.expand(len(latent), -1, -1)
            features = self.unet(latent, TIMESTEP, encoder_hidden_states=context).sample
        logits: Tensor = self.head(features)
        return logits
