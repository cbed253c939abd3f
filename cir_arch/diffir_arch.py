"""DiffIR, a U-Net that a short prior of the image modulates; a diffusion model estimates the prior.

Xia et al., DiffIR: Efficient Diffusion Model for Image Restoration, ICCV 2023,
https://arxiv.org/abs/2303.09472. The authors' release (Apache-2.0) is
https://github.com/Zj-BinXia/DiffIR; its weights for real-world super-resolution at scale 1, 2 and 4
load here unchanged. Those for deblurring and inpainting are of another network.

Computes the same function as the release. Differences:

- The diffusion starts from the same noise in every call, so that an image and its tiles are
  restored alike each time. The release draws it anew; here it is an input.
- Any image size from 1 x 1 on works. The release needs multiples of 32 at scale 1, 16 at 2, 8 at 4.
- The state dict has each layer once. The release's has the diffusion twice; that is ignored.
"""

import math
from collections.abc import Sequence
from functools import partial
from statistics import NormalDist
from typing import Any, Literal, overload

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cir_arch.facts import NetworkFacts
from cir_arch.layers.bands import in_bands
from cir_arch.layers.convolution import MapConv2d, to_image
from cir_arch.layers.norm import BiasFreeLayerNorm
from cir_arch.layers.padding import PaddingRule, checked_size, crop_to
from cir_arch.layers.patch_embedding import PatchEmbedding
from cir_arch.layers.transformer_block import TransformerBlock
from cir_arch.layers.unet import UNetLevels, UNetSizes, gdfn_widths, unet_arguments
from cir_arch.network import RestorationNetwork, Weights, network
from cir_arch.state_dict import State, drop_entries, entry_count, ratio
from cir_host.errors import UserError

CELL = 4
"""Edge of the pixels of the output that the layers see as the channels of one position."""

NOISE_SEED = 0
"""Of the default noise."""

leaky = partial(nn.LeakyReLU, 0.1)


class ModulatedBlock(TransformerBlock):
    """Restormer's block, whose layers get the normalised features scaled and shifted by the prior.

    The dynamic transformer of DiffIR, section 3.2, eq. 3.
    """

    def __init__(self, channels: int, heads: int, ffn_expansion: float, prior: int) -> None:
        super().__init__(channels, heads, ffn_expansion, BiasFreeLayerNorm)
        for layer in (self.attn, self.ffn):
            layer.add_module("kernel", nn.Sequential(nn.Linear(prior, 2 * channels, bias=False)))

    def forward(self, x: Tensor, prior: Tensor) -> Tensor:  # type: ignore[override]
        """Map (B, H, W, C) to the same shape, by priors (B, P)."""
        x = x + _modulated(self.attn, self.norm1, x, prior)
        return x + _modulated(self.ffn, self.norm2, x, prior)


def _modulated(layer: nn.Module, norm: nn.Module, x: Tensor, prior: Tensor) -> Tensor:
    kernel: Tensor = layer.get_submodule("kernel")(prior)
    scale, shift = kernel[:, None, None].chunk(2, dim=-1)
    out: Tensor = layer(in_bands(lambda rows: norm(rows) * scale + shift, x))
    return out


class Generator(UNetLevels):
    """Restormer's U-Net of modulated blocks, with a tail that enlarges by 4.

    Its input is the image with cells of pixels moved to the channels, so that input and output of
    the levels are 4 times as small as the restored image, whatever the scale.
    """

    def __init__(
        self, sizes: UNetSizes, cell: int, ffn_expansion: float, prior: int, use_checkpoint: bool
    ) -> None:
        channels, width = sizes.in_channels * cell**2, 2 * sizes.dim
        super().__init__(
            sizes,
            PatchEmbedding(MapConv2d(channels, sizes.dim, 3, padding=1, bias=False)),
            lambda channels, heads: ModulatedBlock(channels, heads, ffn_expansion, prior),
            latent_out=sizes.widths[3],
            use_checkpoint=use_checkpoint,
        )
        enlargements = (
            layer
            for _ in range(int(math.log2(CELL)))
            for layer in (nn.Conv2d(width, 4 * width, 3, padding=1), nn.PixelShuffle(2))
        )
        self.tail = nn.Sequential(
            nn.Sequential(*enlargements), nn.Conv2d(width, sizes.in_channels, 3, padding=1)
        )

    def forward(self, cells: Tensor, prior: Tensor) -> Tensor:
        """Return what is added to images, (B, C, 4 H, 4 W), for cells (B, C', H, W)."""
        out: Tensor = self.tail(to_image(self.features(cells, prior)))
        return out


class ResBlock(nn.Module):
    """Two convolutions with a leaky ReLU between, added to the input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1),
            leaky(),
            nn.Conv2d(channels, channels, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape."""
        out: Tensor = x + self.body(x)
        return out


class PriorEncoder(nn.Module):
    """Maps images, as cells (B, C, H, W), to vectors of four times ``width`` numbers.

    The compact prior extraction network of DiffIR, section 3.2: convolutions, the mean over the
    image, two linear layers.
    """

    def __init__(self, channels: int, width: int, blocks: int) -> None:
        super().__init__()
        self.E = nn.Sequential(
            nn.Conv2d(channels, width, 3, padding=1),
            leaky(),
            *(ResBlock(width) for _ in range(blocks)),
            nn.Conv2d(width, 2 * width, 3, padding=1),
            leaky(),
            nn.Conv2d(2 * width, 2 * width, 3, padding=1),
            leaky(),
            nn.Conv2d(2 * width, 4 * width, 3, padding=1),
            leaky(),
        )
        self.mlp = nn.Sequential(
            nn.Linear(4 * width, 4 * width), leaky(), nn.Linear(4 * width, 4 * width), leaky()
        )

    def forward(self, cells: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, 4 width)."""
        prior: Tensor = self.mlp(self.E(cells).mean(dim=(2, 3)))
        return prior


class Denoiser(nn.Module):
    """Predicts the prior from a condition, the time and a noisy prior; linear layers."""

    def __init__(self, prior: int, depth: int) -> None:
        super().__init__()
        self.resmlp = nn.Sequential(
            nn.Linear(2 * prior + 1, prior), leaky(), *(LeakyLinear(prior) for _ in range(depth))
        )

    def forward(self, condition: Tensor, time: float, noisy: Tensor) -> Tensor:
        """Map twice (B, P) and a number to (B, P)."""
        times = condition.new_full((len(condition), 1), time)
        prior: Tensor = self.resmlp(torch.cat((condition, times, noisy), dim=1))
        return prior


class LeakyLinear(nn.Module):
    """A linear layer and a leaky ReLU, under the key of published weights."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.resmlp = nn.Sequential(nn.Linear(width, width), leaky())

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C) to the same shape."""
        out: Tensor = self.resmlp(x)
        return out


@network(
    paper="[Xia et al., ICCV 2023](https://arxiv.org/abs/2303.09472)",
    gmacs=11.35,
    small={
        "dim": 8,
        "num_blocks": (1, 1, 1, 1),
        "num_refinement_blocks": 1,
        "n_feats": 8,
        "n_encoder_res": 2,
    },
    weights=(
        Weights(
            "https://github.com/Zj-BinXia/DiffIR (README of DiffIR-RealSR)",
            "RealworldSR-DiffIRS2-x1, x2, x4 and their GAN variants",
            "params_ema",
            "Apache-2.0",
            "real super-resolution x1, x2 and x4 (Real-ESRGAN's degradations); not JPEG alone",
        ),
    ),
)
class DiffIR(RestorationNetwork):
    """U-Net modulated by a prior: 256 numbers that say what the image needs.

    Stage 1 reads the prior off the image and its ground truth, and restores with that: it teaches
    stage 2, which estimates the same prior from the image alone by a diffusion of four steps. The
    defaults give the published network of stage 2 at scale 1.

    Tiles of an image have priors of their own, as the crops in training; ``prior`` gives all of
    them the same.

    Args:
        in_channels: Channels of input and output image.
        scale: 1, 2 or 4.
        stage: 2 restores images. 1 can do so only with the ground truth, or a prior read off it.
        dim: Channels of level 1; the levels below have 2, 4 and 8 times as many.
        num_blocks: Blocks of level 1, 2, 3 and the latent level; each decoder level mirrors its
            encoder level.
        num_refinement_blocks: Blocks after the decoder.
        heads: Attention heads of level 1, 2, 3 and the latent level; the refinement has those of
            level 1.
        ffn_expansion_factor: Hidden over outer channels of the feed-forward networks.
        n_feats: Channels of the encoder of the prior; the prior has four times as many numbers.
        n_encoder_res: Residual blocks of this encoder.
        n_denoise_res: Linear layers of the denoiser after the first. For stage 2, like the others
            below.
        timesteps: Steps of the diffusion.
        linear_start: Variance of the noise of the first step.
        linear_end: Variance of the noise of the last step.
        use_checkpoint: Gradient checkpointing: recompute each block in the backward pass.

    Raises:
        UserError: If arguments contradict each other or are not supported; the message names them.
    """

    def __init__(
        self,
        in_channels: int = 3,
        scale: Literal[1, 2, 4] = 1,
        stage: Literal[1, 2] = 2,
        dim: int = 64,
        num_blocks: Sequence[int] = (13, 1, 1, 1),
        num_refinement_blocks: int = 13,
        heads: Sequence[int] = (1, 2, 4, 8),
        ffn_expansion_factor: float = 2.2,
        n_feats: int = 64,
        n_encoder_res: int = 9,
        n_denoise_res: int = 1,
        timesteps: int = 4,
        linear_start: float = 0.1,
        linear_end: float = 0.99,
        use_checkpoint: bool = False,
    ) -> None:
        super().__init__()
        _check(scale, stage, timesteps, linear_start, linear_end)
        sizes = UNetSizes(in_channels, dim, num_blocks, num_refinement_blocks, heads)
        self.in_channels = in_channels
        self.scale = scale
        self.stage = stage
        self.cell = CELL // scale
        self.prior_size = 4 * n_feats
        self.padding = PaddingRule(8 * self.cell, "reflect")
        self.G = Generator(sizes, self.cell, ffn_expansion_factor, self.prior_size, use_checkpoint)
        channels = in_channels * self.cell**2
        if stage == 1:
            self.E = PriorEncoder(channels + in_channels * CELL**2, n_feats, n_encoder_res)
            return
        self.condition = PriorEncoder(channels, n_feats, n_encoder_res)
        self.denoise = Denoiser(self.prior_size, n_denoise_res)
        self.kept, self.steps = diffusion_steps(timesteps, linear_start, linear_end)
        # Python promises the same numbers in every version, PyTorch does not.
        noise = torch.tensor(NormalDist().samples(self.prior_size, seed=NOISE_SEED), device="cpu")
        self.noise: Tensor
        self.register_buffer("noise", noise[None], persistent=False)

    @classmethod
    def arguments_from(cls, state: State) -> dict[str, Any] | None:
        """Read the arguments off a state dict; None if it is of another network."""
        if not {"G.tail.1.weight", "G.encoder_level1.0.attn.kernel.0.weight"} <= state.keys():
            return None
        stage = 1 if "E.E.0.weight" in state else 2
        encoder = "E" if stage == 1 else "condition"
        generator = {n.removeprefix("G."): v for n, v in state.items() if n.startswith("G.")}
        sizes = unet_arguments(generator, attention="attn", output="tail.1")
        cell = math.isqrt(generator["patch_embed.proj.weight"].shape[1] // sizes["in_channels"])
        arguments = {
            # timesteps, linear_start, linear_end: the same in all published weights.
            **sizes,
            "scale": {4: 1, 2: 2, 1: 4}[cell],
            "stage": stage,
            "ffn_expansion_factor": ratio(gdfn_widths(generator), 2.2),
            "n_feats": len(state[f"{encoder}.E.0.weight"]),
            "n_encoder_res": entry_count(state, f"{encoder}.E.", ".body.0.weight"),
        }
        if stage == 2:
            arguments["n_denoise_res"] = entry_count(state, "denoise.resmlp.", ".resmlp.")
        return arguments

    @property
    def facts(self) -> NetworkFacts:
        """What tools need to know about this network."""
        return NetworkFacts(
            size_multiple=self.padding.multiple,
            min_size=1,
            scale=self.scale,
            halo=None,
            in_channels=self.in_channels,
            precisions=frozenset({"fp32", "bf16", "fp16"}),
            padding=self.padding,
            extra_inputs=("gt", "noise", "prior"),
            extra_outputs=("prior",),
        )

    @overload
    def forward(
        self,
        x: Tensor,
        gt: Tensor | None = ...,
        noise: Tensor | None = ...,
        prior: Tensor | None = ...,
        return_prior: Literal[False] = ...,
    ) -> Tensor: ...

    @overload
    def forward(
        self,
        x: Tensor,
        gt: Tensor | None = ...,
        noise: Tensor | None = ...,
        prior: Tensor | None = ...,
        *,
        return_prior: bool,
    ) -> Tensor | tuple[Tensor, Tensor]: ...

    def forward(
        self,
        x: Tensor,
        gt: Tensor | None = None,
        noise: Tensor | None = None,
        prior: Tensor | None = None,
        return_prior: bool = False,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Restore images (B, C, H, W) in [0, 1]; (B, C, scale H, scale W), not clamped.

        Sides that are not multiples of 32 / scale are padded at bottom and right by reflection
        (replication where a side is too short), and the result is cropped.

        Args:
            x: Images.
            gt: Stage 1: their ground truth, (B, C, scale H, scale W).
            noise: Stage 2: what the diffusion starts from, (B, P) or (1, P), standard normal. None:
                the same numbers for all images and calls.
            prior: Used instead of the one of the stage, (B, P) or (1, P).
            return_prior: Return the image and the prior (B, P) that it was restored with.

        Raises:
            UserError: If a tensor has another shape, or the network is of the other stage.
        """
        height, width = checked_size(x, self.in_channels, "in_channels")
        padded = self.padding.pad(x)
        cells = F.pixel_unshuffle(padded, self.cell)
        if prior is None:
            prior = self._prior_of(cells, gt, noise)
        else:
            self._check_vector("prior", prior, x)
        out = self.G(cells, prior) + F.interpolate(padded, scale_factor=self.scale)
        out = crop_to(out, self.scale * height, self.scale * width)
        return (out, prior.expand(len(x), -1)) if return_prior else out

    def prior_of(self, x: Tensor, gt: Tensor | None = None, noise: Tensor | None = None) -> Tensor:
        """Return the prior (B, P) of images without restoring them; arguments as above."""
        checked_size(x, self.in_channels, "in_channels")
        return self._prior_of(F.pixel_unshuffle(self.padding.pad(x), self.cell), gt, noise)

    def diffused(self, prior: Tensor, noise: Tensor) -> Tensor:
        """Return what the diffusion starts from in training: a prior (B, P) after all its steps.

        Args:
            prior: Of stage 1.
            noise: Standard normal, (B, P).
        """
        signal, rest = math.sqrt(self.kept), math.sqrt(1 - self.kept)
        return signal * prior + rest * noise

    def _prior_of(self, cells: Tensor, gt: Tensor | None, noise: Tensor | None) -> Tensor:
        prior: Tensor
        if self.stage == 1:
            prior = self.E(torch.cat((cells, self._cells_of_gt(cells, gt, noise)), dim=1))
            return prior
        if gt is not None:
            raise UserError("gt: stage 2 restores without the ground truth; leave it out")
        if noise is None:
            noise = self.noise
        self._check_vector("noise", noise, cells)
        condition = self.condition(cells)
        x = noise.to(condition).expand_as(condition)
        for t, (of_prediction, of_noisy) in reversed(list(enumerate(self.steps))):
            predicted = self.denoise(condition, t / (10 * len(self.steps)), x)
            x = of_prediction * predicted + of_noisy * x
        return x

    def _cells_of_gt(self, cells: Tensor, gt: Tensor | None, noise: Tensor | None) -> Tensor:
        if noise is not None:
            raise UserError("noise: stage 1 has no diffusion; leave it out")
        if gt is None:
            raise UserError(
                "gt: stage 1 of DiffIR restores only with the ground truth or a prior; restore"
                " with weights of stage 2"
            )
        gt = PaddingRule(8 * CELL, "reflect").pad(gt)
        expected = (len(cells), self.in_channels, *(CELL * side for side in cells.shape[2:]))
        if gt.shape != expected:
            raise UserError(
                f"gt: a tensor of padded shape {tuple(gt.shape)} does not fit the images; give"
                f" their ground truth, {self.scale} times as large (padded {expected})"
            )
        return F.pixel_unshuffle(gt, CELL)

    def _check_vector(self, name: str, given: Tensor, images: Tensor) -> None:
        if given.shape not in {(1, self.prior_size), (len(images), self.prior_size)}:
            raise UserError(
                f"{name}: a tensor of shape {tuple(given.shape)} does not fit {len(images)} images;"
                f" give ({len(images)}, {self.prior_size}) or (1, {self.prior_size})"
            )

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *arguments: Any
    ) -> None:
        """Load; the release's files hold ``condition`` and ``denoise`` a second time."""
        if self.stage == 2:
            drop_entries(state_dict, prefix, r"diffusion\.")
        super()._load_from_state_dict(state_dict, prefix, *arguments)


def diffusion_steps(
    count: int, start: float, end: float
) -> tuple[float, list[tuple[float, float]]]:
    """Return the numbers of a diffusion (Ho et al., DDPM, NeurIPS 2020, eq. 7; without noise).

    Args:
        count: Steps.
        start: Variance of the noise of the first step; the roots of the variances rise evenly.
        end: Variance of the noise of the last step.

    Returns:
        The share of the signal's variance that is left after all steps; and for each step back, by
        time, the factors of the predicted and of the noisy vector.
    """
    roots = torch.linspace(start**0.5, end**0.5, count, dtype=torch.float64, device="cpu")
    factors, kept = [], 1.0
    for variance in (root**2 for root in roots.tolist()):
        before, kept = kept, kept * (1 - variance)
        noisy = (1 - before) * (1 - variance) ** 0.5 / (1 - kept)
        factors.append((before**0.5 * variance / (1 - kept), noisy))
    return kept, factors


def _check(scale: int, stage: int, timesteps: int, start: float, end: float) -> None:
    if scale not in (1, 2, 4):
        raise UserError(f"scale: {scale} is unknown; give 1, 2 or 4")
    if stage not in (1, 2):
        raise UserError(f"stage: {stage} is unknown; give 1 or 2")
    if timesteps < 1:
        raise UserError(f"timesteps: {timesteps} steps are none; give 1 or more")
    if not 0 < start <= end <= 1:
        raise UserError(
            f"linear_start, linear_end: {start} and {end} are no variances that rise; give numbers"
            " with 0 < linear_start <= linear_end <= 1"
        )
