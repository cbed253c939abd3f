"""UCIP, super-resolution of images that were compressed by any of several codecs.

Li et al., UCIP: A Universal Framework for Compressed Image Super-Resolution using Dynamic Prompt,
ECCV 2024, https://lixinustc.github.io/UCIP.github.io. The authors' release is
https://github.com/lixinustc/UCIP_MLP_source_code; its state dicts load here unchanged.

Computes the same function as the release. Differences:

- The release needs the codec of each image, and which index stands for which codec is not
  published. The paper's network takes no such input: it weights its prompts by the features alone.
  Here the codec may be unknown, see :meth:`UCIP.forward`, and a further option for training
  (``task_weights``) weights the prompts of the codecs by the features.
- Two look-ups along each axis read a map at an offset, at float32 positions. The release calls
  torchvision's ``deform_conv2d`` once per axis, with zero offsets for the other axis; that function
  has no half-precision form on the CPU and none in ONNX. Blocks that share offsets share the
  positions.
- The mixer's three weighted branches and its projection are one sum of matrix products, because
  the weights are constant over space. The release makes and weights three maps, then projects.
- Any image size from 1 x 1 on works. The instance norm of a single pixel is 0, as its formula says;
  the release refuses a single pixel.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, is_grad_enabled, nn
from torch.utils.checkpoint import checkpoint

from cir_arch.facts import NetworkFacts
from cir_arch.layers.convolution import MapConv2d, depthwise_conv, to_image, to_map
from cir_arch.layers.feed_forward import MLP
from cir_arch.layers.initialization import init_linear_layers
from cir_arch.layers.line_sampling import LineTaps, line_taps, sample_line
from cir_arch.layers.padding import checked_size
from cir_arch.layers.patch_embedding import PatchEmbedding
from cir_arch.layers.precision import without_autocast
from cir_arch.network import RestorationNetwork, Weights, network
from cir_arch.state_dict import State, divisor, entry_count, ratio
from cir_host.errors import UserError

CODECS = ("jpeg", "hm", "vtm", "c_psnr", "c_ssim", "hific")
"""Names of the prompt banks 0 to 5. The order is ours: the authors have not published theirs."""

AxisTaps = tuple[LineTaps, LineTaps]
"""Taps along the width and along the height."""


@dataclass(frozen=True)
class BlockSizes:
    """Sizes that all blocks of a network share."""

    channels: int
    prompt_width: int
    mlp_ratio: float
    fusion_hidden: int
    """Hidden channels of the network that weights the token mixer's branches."""
    modulation_hidden: int
    """Hidden channels between prompt and modulation."""
    share_dim: int
    """Neighbouring channels that share an offset."""


class PositionalEncoding(nn.Module):
    """Positional encoding generator: a depthwise convolution added to its input.

    Chu et al., Conditional Positional Encodings for Vision Transformers, ICLR 2023.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.proj = depthwise_conv(channels, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to the same shape."""
        out: Tensor = x + self.proj(x)
        return out


class CodecPrompt(nn.Module):
    """A prompt per pixel: a mixture of a codec's learned vectors, weighted by the pixel's features.

    UCIP, section 3.1; the authors' network adds the axis of the codecs.
    """

    def __init__(
        self, channels: int, codecs: int, bases: int, width: int, task_weights: bool
    ) -> None:
        super().__init__()
        self.prompt = nn.Parameter(torch.rand(codecs, bases, 1, 1, width))
        self.basis_mlp = MLP(channels, bases, bases)
        self.task_mlp = MLP(channels, codecs, codecs) if task_weights else None

    def forward(self, x: Tensor, codec: int | Tensor | None) -> Tensor:
        """Map features (B, H, W, C) to prompts (B, H, W, E); ``codec`` as in :class:`UCIP`."""
        weights: Tensor = self.basis_mlp(x).softmax(dim=-1)
        banks = self.prompt.flatten(1, -2)
        if codec is not None:
            vectors = banks[codec]
        elif self.task_mlp is None:
            vectors = banks.mean(dim=0)
        else:
            tasks = self.task_mlp(x).softmax(dim=-1)
            weights = (tasks.unsqueeze(-1) * weights.unsqueeze(-2)).flatten(-2)
            vectors = banks.flatten(0, 1)
        # One matrix for all images, or one for each.
        prompt = weights.to(vectors.dtype).flatten(1, 2) @ vectors
        return prompt.reshape(*x.shape[:3], -1)


class TokenMixer(nn.Module):
    """Active token mixer: each channel reads its row and its column at a learned offset.

    Wei et al., ActiveMLP, arXiv 2203.06108, with UCIP's convolution (section 3.2). The values read
    along the width, those read along the height, and a depthwise convolution are summed. The
    weights of the sum, per channel, depend on the channels' means over the whole map.
    """

    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.atm_h = MapConv2d(channels, channels, 1)
        self.atm_w = MapConv2d(channels, channels, 1)
        self.atm_local = MapConv2d(channels, channels, 5, padding=2, groups=channels)
        self.fusion = MLP(channels, squeezed, 3 * channels)
        self.proj = nn.Linear(channels, channels)

    def forward(self, x: Tensor, taps: AxisTaps) -> Tensor:
        """Map (B, H, W, C) to the same shape."""
        batch, height, width, channels = x.shape
        maps = (sample_line(x, taps[0]), sample_line(x, taps[1]), self.atm_local(x))
        branches = [m.reshape(batch, height * width, channels) for m in maps]
        # The means of the branches' 1x1 convolutions are the convolutions of the means.
        w, h, local = (branch.mean(dim=1) for branch in branches)
        mixing = self.fusion(self.atm_w(w) + self.atm_h(h) + local)
        alpha = mixing.reshape(batch, channels, 3).softmax(dim=-1).unbind(dim=-1)
        # projection(sum of alpha_i * branch_i) = sum of (projection * alpha_i * weight_i) branch_i
        projection = self.proj.weight
        weighted = [projection * a.unsqueeze(1) for a in alpha]
        matrices = [
            weighted[0] @ self.atm_w.weight.flatten(1),
            weighted[1] @ self.atm_h.weight.flatten(1),
            weighted[2],
        ]
        bias = self.proj(alpha[0] * self.atm_w.bias + alpha[1] * self.atm_h.bias)
        out: Tensor = bias.unsqueeze(1)
        for branch, matrix in zip(branches, matrices, strict=True):
            out = torch.baddbmm(out, branch, matrix.transpose(1, 2))
        return out.reshape(batch, height, width, channels)


class PromptModulation(nn.Module):
    """Instance norm of the features, then a scale and shift per pixel, computed from the prompt.

    Park et al., SPADE, CVPR 2019. Biased variance over the whole map, eps 1e-5; a map of one pixel
    is normalised to 0.
    """

    def __init__(self, channels: int, prompt_width: int, hidden: int) -> None:
        super().__init__()
        self.mlp_shared = nn.Sequential(MapConv2d(prompt_width, hidden, 3, padding=1), nn.ReLU())
        self.mlp_gamma = MapConv2d(hidden, channels, 3, padding=1)
        self.mlp_beta = MapConv2d(hidden, channels, 3, padding=1)

    def forward(self, x: Tensor, prompt: Tensor) -> Tensor:
        """Map (B, H, W, C) to the same shape; the prompt is (B, H, W, E)."""
        hidden = self.mlp_shared(prompt)
        # Statistics in float32 at least, as in PyTorch's own norms.
        values = x.to(torch.promote_types(x.dtype, torch.float32))
        centred = values - values.mean(dim=(1, 2), keepdim=True)
        variance = centred.square().mean(dim=(1, 2), keepdim=True)
        normed = (centred * torch.rsqrt(variance + 1e-5)).to(x.dtype)
        return torch.addcmul(normed + self.mlp_beta(hidden), normed, self.mlp_gamma(hidden))


class OffsetLayer(nn.ModuleList):
    """Layer norm and linear layer that compute the offsets of each pixel along both axes."""

    def __init__(self, inputs: int, groups: int) -> None:
        super().__init__([nn.LayerNorm(inputs), nn.Linear(inputs, 2 * groups)])

    def forward(self, x: Tensor, prompt: Tensor) -> AxisTaps:
        """Turn features (B, H, W, C) and prompt (B, H, W, E) into taps of both axes.

        Computed in float32 at least, under autocast and with half-precision weights too: offsets
        are in pixels, and bfloat16 rounds an offset of ten pixels by up to 0.03.
        """
        dtype = torch.promote_types(x.dtype, torch.float32)
        scale, shift, weight, bias = (parameter.to(dtype) for parameter in self.parameters())
        with without_autocast(x):
            inputs = torch.cat((x.to(dtype), prompt.to(dtype)), dim=-1)
            normed = F.layer_norm(inputs, scale.shape, scale, shift)
            along_width, along_height = F.linear(normed, weight, bias).chunk(2, dim=-1)
            channels = x.shape[-1]
            return line_taps(along_width, 2, channels), line_taps(along_height, 1, channels)


class Block(nn.Module):
    """Prompt-guided token mixer block: token mixer, MLP, modulation by the prompt (UCIP, fig. 1c).

    The modulation replaces the features; there is no residual connection around it.
    """

    def __init__(self, sizes: BlockSizes, *, has_offsets: bool) -> None:
        super().__init__()
        channels = sizes.channels
        self.norm1 = nn.LayerNorm(channels)
        self.atm = TokenMixer(channels, sizes.fusion_hidden)
        self.norm2 = nn.LayerNorm(channels)
        self.mlp = MLP(channels, int(channels * sizes.mlp_ratio), channels)
        self.spade = PromptModulation(channels, sizes.prompt_width, sizes.modulation_hidden)
        self.offset_layer = (
            OffsetLayer(channels + sizes.prompt_width, channels // sizes.share_dim)
            if has_offsets
            else None
        )

    def forward(self, x: Tensor, prompt: Tensor, taps: AxisTaps) -> Tensor:
        """Map (B, H, W, C) to the same shape; the prompt is (B, H, W, E)."""
        x = x + self.atm(self.norm1(x), taps)
        x = x + self.mlp(self.norm2(x))
        out: Tensor = self.spade(x, prompt)
        return out


@network(
    paper="[Li et al., ECCV 2024](https://github.com/lixinustc/UCIP), compressed super-resolution"
    " x4",
    gmacs=196.42,
    small={
        "embed_dim": 16,
        "depths": (2, 3),
        "p_dim": 8,
        "prompt_bases": 4,
        "modulation_hidden": 8,
        "num_feat": 8,
    },
    weights=(
        Weights(
            "https://github.com/lixinustc/UCIP_MLP_source_code (README, Google Drive)",
            "a .pt file",
            "state dict (read off the training code)",
            "no licence stated",
            "super-resolution x4 of images from six codecs",
        ),
    ),
    # The instance norm behind these biases subtracts them.
    unused_parameters=r"blocks\.\d+\.\d+\.mlp\.fc2\.bias",
    onnx_any_size=True,
)
class UCIP(RestorationNetwork):
    """MLP-like super-resolution network; a prompt of the codec guides each group of blocks.

    The defaults give the published network. Images of any size are processed without padding, and
    no skip connection adds the image.

    Args:
        in_channels: Channels of input and output image.
        embed_dim: Channels of the features.
        depths: Blocks of each group.
        mlp_ratio: Hidden over outer channels of the MLPs.
        share_dim: Neighbouring channels that share an offset.
        intv: Blocks of a group that share offsets and positional encoding.
        p_dim: Channels of the prompts.
        prompt_bases: Learned vectors of each codec's prompt.
        num_codecs: Prompt banks.
        fusion_squeeze: Channels over hidden channels of the MLP that weights the mixer's branches.
        modulation_hidden: Hidden channels between prompt and modulation.
        num_feat: Channels of the features during upsampling.
        upscale: Output size over input size, a power of 2.
        task_weights: Weight the codecs' prompts by the features, as PromptCIR does, where the codec
            is not given. Adds parameters (``task_mlp``) that published weights lack; they start
            with equal weights, which give the same output as the network without them.
        zero_prompts: Start the prompts at zero. While they are kept at zero, the modulation is the
            same for all pixels and images.
        use_checkpoint: Gradient checkpointing: recompute each block in the backward pass.

    Raises:
        UserError: If arguments contradict each other; the message names them.
    """

    def __init__(
        self,
        in_channels: int = 3,
        embed_dim: int = 128,
        depths: Sequence[int] = (6, 6, 6, 6, 6, 6),
        mlp_ratio: float = 4.0,
        share_dim: int = 2,
        intv: int = 2,
        p_dim: int = 64,
        prompt_bases: int = 8,
        num_codecs: int = len(CODECS),
        fusion_squeeze: int = 4,
        modulation_hidden: int = 32,
        num_feat: int = 64,
        upscale: int = 4,
        task_weights: bool = False,
        zero_prompts: bool = False,
        use_checkpoint: bool = False,
    ) -> None:
        super().__init__()
        if embed_dim % share_dim or embed_dim % fusion_squeeze:
            raise UserError(
                f"embed_dim {embed_dim} must be a multiple of share_dim {share_dim} and of "
                f"fusion_squeeze {fusion_squeeze}"
            )
        if intv < 1:
            raise UserError(f"intv {intv} must be at least 1")
        if upscale < 1 or upscale & (upscale - 1):
            raise UserError(f"upscale {upscale} must be a power of 2: 1, 2, 4 ...")
        self.in_channels = in_channels
        self.num_codecs = num_codecs
        self.upscale = upscale
        self.use_checkpoint = use_checkpoint
        sizes = BlockSizes(
            channels=embed_dim,
            prompt_width=p_dim,
            mlp_ratio=mlp_ratio,
            fusion_hidden=embed_dim // fusion_squeeze,
            modulation_hidden=modulation_hidden,
            share_dim=share_dim,
        )
        self.patch_embed = PatchEmbedding(MapConv2d(in_channels, embed_dim, 5, padding=2))
        self.prompts = nn.ModuleList(
            CodecPrompt(embed_dim, num_codecs, prompt_bases, p_dim, task_weights) for _ in depths
        )
        self.pos_blocks = nn.ModuleList(PositionalEncoding(embed_dim) for _ in depths)
        self.blocks = nn.ModuleList(
            nn.ModuleList(Block(sizes, has_offsets=j % intv == 0) for j in range(depth))
            for depth in depths
        )
        self.norm = nn.LayerNorm(embed_dim)
        self.conv_after_body = MapConv2d(embed_dim, embed_dim, 3, padding=1)
        self.conv_before_up = nn.Sequential(
            nn.Conv2d(embed_dim, num_feat, 3, padding=1), nn.LeakyReLU(0.01, inplace=True)
        )
        for step in range(self._doublings):
            self.add_module(f"conv_up{step + 1}", nn.Conv2d(num_feat, num_feat, 3, padding=1))
        self.conv_hr = nn.Conv2d(num_feat, num_feat, 3, padding=1)
        self.conv_last = nn.Conv2d(num_feat, in_channels, 3, padding=1)
        self.apply(_init_layer)
        if zero_prompts:
            for prompt in self.prompts:
                nn.init.zeros_(cast(CodecPrompt, prompt).prompt)

    @classmethod
    def arguments_from(cls, state: State) -> dict[str, Any] | None:
        """Read the arguments off a state dict; None if it is of another network."""
        if not {"pos_blocks.0.proj.weight", "prompts.0.prompt"} <= state.keys():
            return None
        embed_dim, in_channels = state["patch_embed.proj.weight"].shape[:2]
        depths = [entry_count(state, f"blocks.{i}.") for i in range(entry_count(state, "blocks."))]
        num_codecs, prompt_bases, _, _, p_dim = state["prompts.0.prompt"].shape
        first = "blocks.0.0"
        offsets = len(state[f"{first}.offset_layer.1.weight"]) // 2
        return {
            "in_channels": in_channels,
            "embed_dim": embed_dim,
            "depths": depths,
            "mlp_ratio": ratio([(embed_dim, len(state[f"{first}.mlp.fc1.weight"]))], 4.0),
            "share_dim": embed_dim // offsets,
            "intv": _interval(state, depths),
            "p_dim": p_dim,
            "prompt_bases": prompt_bases,
            "num_codecs": num_codecs,
            "fusion_squeeze": divisor(
                [(embed_dim, len(state[f"{first}.atm.fusion.fc1.weight"]))], 4
            ),
            "modulation_hidden": len(state[f"{first}.spade.mlp_shared.0.weight"]),
            "num_feat": len(state["conv_before_up.0.weight"]),
            "upscale": 2 ** sum(f"conv_up{i}.weight" in state for i in range(1, 9)),
            "task_weights": "prompts.0.task_mlp.fc1.weight" in state,
        }

    @property
    def _doublings(self) -> int:
        return self.upscale.bit_length() - 1

    @property
    def facts(self) -> NetworkFacts:
        """What tools need to know about this network."""
        return NetworkFacts(
            size_multiple=1,
            min_size=1,
            scale=self.upscale,
            halo=None,
            in_channels=self.in_channels,
            precisions=frozenset({"fp32", "bf16", "fp16"}),
            extra_inputs=("codec",),
        )

    def forward(self, x: Tensor, codec: int | Tensor | None = None) -> Tensor:
        """Restore and enlarge images (B, C, H, W), RGB in [0, 1], to (B, C, s H, s W).

        The result is not clamped. ``codec`` names the codec of the images: an index of
        :data:`CODECS`, or int64 (B,) with one index for each image. The release takes an index too,
        but which codec each index stands for is not published.

        ``None`` is for images of unknown origin. A network with ``task_weights`` then weights the
        codecs' prompts by the features. The published weights lack that part, so the mean of all
        banks is used. Equal weights give the same prompt, so it prefers no codec; of all prompts it
        has the least squared distance to the six; and it costs no more than one bank, where the
        mean of six outputs would cost six times as much. The published network was not trained with
        it, so give the codec where you know it.

        Raises:
            UserError: If ``codec`` is not the index of a bank or has another shape, or the number
                of channels is not the network's.
        """
        checked_size(x, self.in_channels, "in_channels")
        if codec is not None:
            self._check_codec(codec, x.shape[0])
        shallow = self.patch_embed(to_map(x)).contiguous()
        deep = shallow
        for prompt, encoding, blocks in zip(
            self.prompts, self.pos_blocks, self.blocks, strict=True
        ):
            group = cast("Iterable[Block]", blocks)
            deep = deep + self._group(deep, prompt(deep, codec), encoding, group)
        features = to_image(self.conv_after_body(self.norm(deep)) + shallow)
        return self._enlarge(features)

    def _group(
        self, x: Tensor, prompt: Tensor, encoding: nn.Module, blocks: Iterable[Block]
    ) -> Tensor:
        """Run the blocks of a group (UCIP, fig. 1b) on a map (B, H, W, C)."""
        for block in blocks:
            if block.offset_layer is not None:
                x = encoding(x)
                taps = self._run(block.offset_layer, x, prompt)
            x = self._run(block, x, prompt, taps)
        return x

    def _run(self, module: nn.Module, *inputs: Any) -> Any:
        if self.use_checkpoint and is_grad_enabled():
            return checkpoint(module, *inputs, use_reentrant=False)
        return module(*inputs)

    def _enlarge(self, x: Tensor) -> Tensor:
        """Turn features (B, C, H, W) into images (B, C, s H, s W)."""
        x = self.conv_before_up(x)
        for step in range(self._doublings):
            x = F.interpolate(x, scale_factor=2.0, mode="nearest")
            conv = self.get_submodule(f"conv_up{step + 1}")
            x = F.leaky_relu(conv(x), 0.2, inplace=True)
        x = F.leaky_relu(self.conv_hr(x), 0.2, inplace=True)
        out: Tensor = self.conv_last(x)
        return out

    def _check_codec(self, codec: int | Tensor, batch: int) -> None:
        wanted = f"codec must be an index from 0 to {self.num_codecs - 1}"
        if isinstance(codec, int):
            if not 0 <= codec < self.num_codecs:
                raise UserError(f"{wanted}, not {codec}")
            return
        if codec.shape != (batch,) or codec.dtype != torch.int64:
            raise UserError(
                f"{wanted}, or an int64 tensor of {batch}, one for each image, not "
                f"{codec.dtype} of shape {tuple(codec.shape)}"
            )
        # A traced or compiled graph cannot branch on values; there indexing checks the range.
        if torch.compiler.is_compiling() or codec.is_meta:
            return
        if codec.lt(0).any() or codec.ge(self.num_codecs).any():
            raise UserError(f"{wanted}, not {codec.tolist()}")


def _interval(state: State, depths: Sequence[int]) -> int:
    """Return the number of blocks that share offsets."""
    interval = 2  # cannot be deduced where groups have one or two blocks
    for i, depth in enumerate(depths):
        others = [j for j in range(1, depth) if f"blocks.{i}.{j}.offset_layer.1.weight" in state]
        if others:
            return others[0]
        interval = max(interval, depth)
    return interval


def _init_layer(module: nn.Module) -> None:
    """Initialise a layer as the authors' network does; for ``Module.apply``."""
    init_linear_layers(module)
    if isinstance(module, nn.Conv2d):
        outputs = module.kernel_size[0] * module.kernel_size[1] * module.out_channels
        nn.init.normal_(module.weight, std=math.sqrt(2 * module.groups / outputs))
        assert module.bias is not None
        nn.init.zeros_(module.bias)
    if isinstance(module, TokenMixer):
        for conv in (module.atm_h, module.atm_w):
            nn.init.trunc_normal_(conv.weight, std=0.02)
    if isinstance(module, CodecPrompt) and module.task_mlp is not None:
        nn.init.zeros_(module.task_mlp.fc2.weight)
