"""CODiff, a compression-aware one-step diffusion model.

Guo et al., Compression-Aware One-Step Diffusion Model for JPEG Artifact Removal, ICCV 2025,
https://arxiv.org/abs/2502.09873, stage 2. The authors' release (MIT) is
https://github.com/jp-guo/CODiff.

Computes the same function as the release in float32, where these differences do not matter:

- The latent is the mean of the VAE's posterior. The release samples it, from a generator that it
  does not seed; ``seed`` samples it reproducibly.
- Images of any size pass, padded at bottom and right by replication and cut back. The release
  resizes images to multiples of 8, and fails where a side is below 32.
- The step from the noise to the image is a formula in float32. The release calls a scheduler, which
  gives the same in the version of diffusers that it pins, and fails in later ones.
- Images stay floating-point until the result is written. The release rounds down to 8 bits twice.
- Tiles are an option of large images. VAE tiles are blended as those of the UNet are; the release
  shares statistics between VAE tiles.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn

from cir_arch.cave_arch import CaVEEncoder
from cir_arch.facts import NetworkFacts
from cir_arch.layers.padding import PaddingRule, checked_size, crop_to
from cir_arch.layers.precision import without_autocast
from cir_diffusion.base import Base
from cir_diffusion.color_alignment import ALIGNMENTS
from cir_diffusion.latent_tiles import LatentTiles
from cir_diffusion.settings import Alignment

TIMESTEP = 499
"""The time step of the noise that CODiff removes."""

LATENT = 8
"""Pixels of the image, in each direction, that belong to one latent."""

PADDING = PaddingRule(LATENT, "replicate", smallest=32)
"""To whole latents, and to the size that gives CaVE one token."""


class CODiff(nn.Module):
    """Takes a JPEG for a noisy image, and removes the noise in one step of Stable Diffusion.

    CaVE's tokens, which tell how the image was compressed, take the place of the text prompt.

    Args:
        base: UNet and VAE, with CODiff's changes, and the noise schedule.
        cave: Describes the compression by tokens. Never trained here, always in evaluation mode.
        proj: Maps the tokens to the width of the UNet's context.
        timestep: See :data:`TIMESTEP`.
        align: How the result gets the colours of the input.
        seed: Sample the latent instead of taking its mean. Each call starts the generator anew, so
            the result does not depend on other images.
    """

    def __init__(
        self,
        base: Base,
        cave: CaVEEncoder,
        proj: nn.Linear,
        *,
        timestep: int = TIMESTEP,
        align: Alignment = "adain",
        seed: int | None = None,
    ) -> None:
        super().__init__()
        self.unet: Any = base.unet  # Any: diffusers has no types that mypy reads
        self.vae: Any = base.vae
        self.cave = cave
        self.proj = proj
        self.schedule = base.schedule
        self.timestep = timestep
        self.align = align
        self.seed = seed

    @property
    def facts(self) -> NetworkFacts:
        """What tools need to know about this network."""
        return NetworkFacts(
            size_multiple=LATENT,
            min_size=1,
            scale=1,
            halo=None,
            in_channels=3,
            precisions=frozenset({"fp32", "bf16", "fp16"}),
            padding=PADDING,
            extra_inputs=("strength",),
            whole_images=True,
            fast_precision="fp16",
            generative=True,
        )

    def forward(
        self,
        x: Tensor,
        strength: float | None = None,
        tile: int | None = None,
        overlap: int | None = None,
    ) -> Tensor:
        """Restore images (B, 3, H, W), RGB in [0, 1]; same shape and range.

        Args:
            x: Whole images, since their colours are aligned over the whole image.
            strength: 0 to 1: share of the result in its mean with the input; None: 1.
            tile: Size of tiles in pixels, for images of more pixels; None: no tiles.
            overlap: Tile overlap in pixels; None: a third of the tile.

        Raises:
            UserError: If the number of channels is not 3.
        """
        height, width = checked_size(x, 3, type(self).__name__)
        tiles = None
        if tile is not None:
            shared = tile // 3 if overlap is None else overlap
            tiles = LatentTiles(max(tile // LATENT, 1), shared // LATENT)
        padded = PADDING.pad(x)
        generated = self.generate(padded, self.tokens(padded), self._noise(padded), tiles)
        aligned = ALIGNMENTS[self.align](crop_to(generated, height, width), x.float())
        return aligned if strength is None else x + strength * (aligned - x)

    def tokens(self, x: Tensor) -> Tensor:
        """Return the UNet's context (B, K, C), in float32: one token for 32 x 32 pixels.

        Args:
            x: (B, 3, H, W) in [0, 1], sides of at least 32.
        """
        with without_autocast(x):
            context: Tensor = self.proj(self.cave.embed_unpadded(x.float()))
        return context

    def generate(
        self,
        x: Tensor,
        context: Tensor,
        noise: Tensor | None = None,
        tiles: LatentTiles | None = None,
    ) -> Tensor:
        """Restore images whose sides are multiples of 8; colours are not aligned.

        Args:
            x: (B, 3, 8 H, 8 W) in [0, 1].
            context: (B or 1, K, C), as :meth:`tokens` returns it.
            noise: Standard normal (B, 4, H, W), which samples the latent; None: its mean.
            tiles: None: whole images.

        Returns:
            The shape of ``x``, in [0, 1], float32.
        """
        latent = self.latent(x, noise, tiles)
        return self.image(
            self.denoised(latent, self.predicted_noise(latent, context, tiles)), tiles
        )

    def latent(
        self, x: Tensor, noise: Tensor | None = None, tiles: LatentTiles | None = None
    ) -> Tensor:
        """Encode images (B, 3, 8 H, 8 W) in [0, 1] as latents (B, 4, H, W), float32."""

        def mean_and_deviation(image: Tensor) -> Tensor:
            posterior = self.vae.encode(image).latent_dist
            return torch.cat((posterior.mean, posterior.std), 1)

        encoded = _run(tiles, mean_and_deviation, 2 * x - 1, LATENT, 1)
        mean, deviation = encoded.chunk(2, 1)
        sampled = mean if noise is None else mean + deviation * noise
        return sampled * self._scaling_factor

    def predicted_noise(
        self, latent: Tensor, context: Tensor, tiles: LatentTiles | None = None
    ) -> Tensor:
        """Return the noise that the UNet sees in latents, of their shape, in float32.

        Every tile gets all tokens of the whole image.
        """
        context = context.expand(len(latent), -1, -1)

        def predicted(part: Tensor) -> Tensor:
            noise: Tensor = self.unet(part, self.timestep, encoder_hidden_states=context).sample
            return noise

        return _run(tiles, predicted, latent, 1, 1)

    def denoised(self, latent: Tensor, noise: Tensor) -> Tensor:
        """Remove noise from latents at the time step, in float32."""
        signal = self.schedule.signal(self.timestep)
        return (latent - math.sqrt(1 - signal) * noise.float()) / math.sqrt(signal)

    def image(self, latent: Tensor, tiles: LatentTiles | None = None) -> Tensor:
        """Decode latents (B, 4, H, W) to images (B, 3, 8 H, 8 W) in [0, 1], float32."""

        def decoded(part: Tensor) -> Tensor:
            image: Tensor = self.vae.decode(part).sample
            return image

        wide = _run(tiles, decoded, latent / self._scaling_factor, 1, LATENT)
        wide = wide.where(wide.isfinite(), torch.nan)  # the limits would hide an infinity
        return wide.clamp(-1, 1) / 2 + 0.5

    @property
    def _scaling_factor(self) -> float:
        return float(self.vae.config.scaling_factor)

    def _noise(self, x: Tensor) -> Tensor | None:
        if self.seed is None:
            return None
        generator = torch.Generator().manual_seed(self.seed)
        return torch.randn(self._latent_shape(x), generator=generator).to(x.device)

    def _latent_shape(self, x: Tensor) -> tuple[int, ...]:
        """Return the shape (B, 4, H, W) of the latents of images (B, 3, 8 H, 8 W)."""
        height, width = (side // LATENT for side in x.shape[-2:])
        return len(x), self.vae.config.latent_channels, height, width


def _run(
    tiles: LatentTiles | None, network: Any, x: Tensor, pixels_in: int, pixels_out: int
) -> Tensor:
    if tiles is None:
        whole: Tensor = network(x).float()
        return whole
    return tiles.run(network, x, pixels_in, pixels_out)
