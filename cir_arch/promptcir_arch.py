"""PromptCIR, blind restoration of compressed images by prompt learning.

Li et al., PromptCIR: Blind Compressed Image Restoration with Prompt Learning, CVPR Workshops 2024,
https://arxiv.org/abs/2404.17433. The authors' release (inference only, Apache-2.0) is
https://github.com/lbc12345/PromptCIR-NTIRE24; its checkpoints load here unchanged.

Same function as the release, otherwise done here:

- The network with prompts is the default. The release builds one without unless told otherwise.
- The window size is an argument. The release fixes it beside the arguments, so that its masks are
  wrong for any size but 16.
- Any image size from 1 x 1 on. The release needs multiples of 32.
- Prompts are summed by a matrix product. The release spreads them over tasks x bases x width x
  pixels, 470 MB for one 128 x 128 image in float32.
- Four masks serve all windows of all image sizes. The release builds one per window, on the CPU, in
  every group of every call.
- Masks and biases follow the dtype of the attention, so that bfloat16 weights work.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from basicsr.utils.registry import ARCH_REGISTRY
from torch import Tensor, nn

from cir_arch.facts import NetworkFacts
from cir_arch.layers.blocks import BlockChain
from cir_arch.layers.convolution import MapConv2d, to_image, to_map
from cir_arch.layers.dynamic_prompt import DynamicPrompt
from cir_arch.layers.hybrid_attention import (
    RHAG,
    HybridSizes,
    group_depth,
    group_heads,
    hybrid_arguments,
)
from cir_arch.layers.initialization import init_linear_layers
from cir_arch.layers.padding import crop_to, pad_to_multiple
from cir_arch.layers.resample import Downsample, Upsample
from cir_arch.layers.transformer_block import TransformerBlock
from cir_arch.layers.unet import LEVELS, gdfn_widths
from cir_arch.layers.window_attention import (
    PositionIndices,
    check_index_shape,
    extended_window,
    overlap_index,
    self_attention_index,
)
from cir_arch.state_dict import State, entry_count, ratio
from cir_host.errors import UserError
from cir_host.registration import register


class PatchEmbedding(nn.Module):
    """The first convolution, under the key of the published checkpoints."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.proj = MapConv2d(in_channels, channels, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to (B, H, W, C')."""
        out: Tensor = self.proj(x)
        return out


@register(ARCH_REGISTRY)
class PromptCIR(nn.Module):
    """U-Net of four levels whose decoder asks, at each step, a dynamic prompt what to restore.

    Levels 1 and 2 are residual hybrid attention groups, level 3 and the latent level transformer
    blocks with attention between channels. The defaults give the published network.

    Args:
        in_channels: Channels of input and output image.
        dim: Channels of level 1; the levels below have 2, 4 and 8 times as many.
        num_blocks: Blocks of level 1, 2, 3 and the latent level; each decoder level mirrors its
            encoder level.
        num_refinement_blocks: Transformer blocks after the decoder.
        heads: Attention heads of level 1, 2, 3 and the latent level. Those of level 1 serve the
            refinement too, those of level 3 all prompt interactions.
        ffn_expansion: Hidden over outer channels of the feed-forward networks.
        window_size: Side of the attention windows in pixels of their level; even.
        overlap_ratio: By how much the key windows of the overlapping attention exceed them.
        compress_ratio: Outer over inner channels of the convolution blocks beside the attention.
        squeeze_factor: Channels over squeezed channels of their channel attention.
        conv_scale: Weight of these convolution blocks.
        prompt_tasks: Length of the prompts' task axis.
        prompt_bases: Prompt bases at the decoder's output of level 1, 2 and 3.
        prompt_dims: Channels of these three prompts.
        zero_last: Start the last convolution at zero: the untrained network is the identity.
        use_checkpoint: Recompute each block in the backward pass: less memory, more time.

    Raises:
        UserError: If arguments contradict each other; the message names them.
    """

    def __init__(
        self,
        in_channels: int = 3,
        dim: int = 48,
        num_blocks: Sequence[int] = (4, 6, 6, 8),
        num_refinement_blocks: int = 4,
        heads: Sequence[int] = (1, 2, 4, 8),
        ffn_expansion: float = 2.66,
        window_size: int = 16,
        overlap_ratio: float = 0.5,
        compress_ratio: int = 3,
        squeeze_factor: int = 16,
        conv_scale: float = 0.01,
        prompt_tasks: int = 7,
        prompt_bases: Sequence[int] = (64, 32, 16),
        prompt_dims: Sequence[int] = (64, 128, 320),
        zero_last: bool = False,
        use_checkpoint: bool = False,
    ) -> None:
        super().__init__()
        _check_counts(num_blocks=(num_blocks, 4), heads=(heads, 4))
        _check_counts(prompt_bases=(prompt_bases, 3), prompt_dims=(prompt_dims, 3))
        _check_sizes(dim, window_size, overlap_ratio, compress_ratio, squeeze_factor)
        _check_heads(dim, heads, prompt_dims)
        sizes = HybridSizes(
            window_size,
            overlap_ratio,
            compress_ratio,
            squeeze_factor,
            conv_scale,
            "gdfn",
            ffn_expansion,
        )
        self.in_channels = in_channels
        self.window_size = window_size
        self.extended_size = extended_window(window_size, overlap_ratio)
        self.relative_position_index_SA: Tensor
        self.relative_position_index_OCA: Tensor
        for name, index in self._index_tables().items():
            self.register_buffer(name, index)

        def group(channels: int, level: int) -> RHAG:
            return RHAG(
                channels, num_blocks[level], heads[level], sizes, use_checkpoint=use_checkpoint
            )

        def chain(channels: int, count: int, level: int) -> BlockChain:
            blocks = (TransformerBlock(channels, heads[level], ffn_expansion) for _ in range(count))
            return BlockChain(*blocks, use_checkpoint=use_checkpoint)

        def prompt(channels: int, level: int) -> DynamicPrompt:
            return DynamicPrompt(channels, prompt_tasks, prompt_bases[level], prompt_dims[level])

        def interaction(channels: int) -> TransformerBlock:
            return TransformerBlock(channels, heads[2], ffn_expansion)

        c1, c2, c3, c4 = (dim * 2**level for level in range(4))
        p1, p2, p3 = prompt_dims
        self.patch_embed_input = PatchEmbedding(in_channels, c1)
        self.encoder_level1 = group(c1, 0)
        self.down1_2 = Downsample(c1)
        self.encoder_level2 = group(c2, 1)
        self.down2_3 = Downsample(c2)
        self.encoder_level3 = chain(c3, num_blocks[2], 2)
        self.down3_4 = Downsample(c3)
        self.latent = chain(c4, num_blocks[3], 3)
        self.prompt3 = prompt(c4, 2)
        self.noise_level3 = interaction(c4 + p3)
        self.reduce_noise_level3 = MapConv2d(c4 + p3, c3, 1, bias=False)
        self.up4_3 = Upsample(c3)
        self.reduce_chan_level3 = MapConv2d(c2 + c3, c3, 1, bias=False)
        self.decoder_level3 = chain(c3, num_blocks[2], 2)
        self.prompt2 = prompt(c3, 1)
        self.noise_level2 = interaction(c3 + p2)
        self.reduce_noise_level2 = MapConv2d(c3 + p2, c3, 1, bias=False)
        self.up3_2 = Upsample(c3)
        self.reduce_chan_level2 = MapConv2d(c2 + c2, c2, 1, bias=False)
        self.decoder_level2 = group(c2, 1)
        self.prompt1 = prompt(c2, 0)
        self.noise_level1 = interaction(c2 + p1)
        self.reduce_noise_level1 = MapConv2d(c2 + p1, c2, 1, bias=False)
        self.up2_1 = Upsample(c2)
        self.decoder_level1 = group(c1 + c1, 0)
        self.refinement = chain(c1 + c1, num_refinement_blocks, 0)
        self.output = MapConv2d(c1 + c1, in_channels, 3, padding=1, bias=False)
        self.apply(init_linear_layers)
        if zero_last:
            nn.init.zeros_(self.output.weight)

    @classmethod
    def arguments_from(cls, state: State) -> dict[str, Any] | None:
        """Read the arguments off a state dict; None if it is of another network."""
        if not {"patch_embed_input.proj.weight", "prompt1.task_mlp.fc1.weight"} <= state.keys():
            return None
        dim, in_channels = state["patch_embed_input.proj.weight"].shape[:2]
        groups, chains = LEVELS[:2], LEVELS[2:]
        prompts = [state[f"prompt{level}.prompt"].shape for level in (1, 2, 3)]
        return {
            # conv_scale: nothing tells. zero_last: only for training.
            "in_channels": in_channels,
            "dim": dim,
            "num_blocks": [
                *(group_depth(state, group) for group in groups),
                *(entry_count(state, f"{chain}.") for chain in chains),
            ],
            "num_refinement_blocks": entry_count(state, "refinement."),
            "heads": [
                *(group_heads(state, group) for group in groups),
                *(len(state[f"{chain}.0.attn.temperature"]) for chain in chains),
            ],
            "ffn_expansion": ratio(gdfn_widths(state), 2.66),
            **hybrid_arguments(state, (*groups, "decoder_level1"), squeeze_factor=16),
            "prompt_tasks": prompts[0][1],
            "prompt_bases": [shape[2] for shape in prompts],
            "prompt_dims": [shape[3] for shape in prompts],
        }

    @property
    def facts(self) -> NetworkFacts:
        """What tools need to know of this network."""
        return NetworkFacts(
            size_multiple=math.lcm(8, 2 * self.window_size),
            min_size=1,
            scale=1,
            halo=None,
            in_channels=self.in_channels,
            precisions=frozenset({"fp32", "bf16", "fp16"}),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Restore images (B, C, H, W), RGB in [0, 1]; same shape, not clamped.

        Raises:
            UserError: If the number of channels is not the network's.
        """
        height, width = x.shape[-2:]
        padded = pad_to_multiple(x, self.facts.size_multiple)
        out = padded + to_image(self._residual(to_map(padded)))
        return crop_to(out, height, width)

    def _residual(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to what is added to it; H and W are multiples of ``size_multiple``."""
        positions = PositionIndices(
            self.relative_position_index_SA, self.relative_position_index_OCA
        )
        e1 = self.encoder_level1(self.patch_embed_input(x), positions)
        e2 = self.encoder_level2(self.down1_2(e1), positions)
        e3 = self.encoder_level3(self.down2_3(e2))
        y = self.latent(self.down3_4(e3))
        y = self.noise_level3(torch.cat((y, self.prompt3(y)), dim=-1))
        y = self.up4_3(self.reduce_noise_level3(y))
        y = self.decoder_level3(self.reduce_chan_level3(torch.cat((y, e3), dim=-1)))
        y = self.noise_level2(torch.cat((y, self.prompt2(y)), dim=-1))
        y = self.up3_2(self.reduce_noise_level2(y))
        y = self.decoder_level2(self.reduce_chan_level2(torch.cat((y, e2), dim=-1)), positions)
        y = self.noise_level1(torch.cat((y, self.prompt1(y)), dim=-1))
        y = self.up2_1(self.reduce_noise_level1(y))
        y = self.decoder_level1(torch.cat((y, e1), dim=-1), positions)
        out: Tensor = self.output(self.refinement(y))
        return out

    def _load_from_state_dict(
        self, state_dict: dict[str, Tensor], prefix: str, *arguments: Any
    ) -> None:
        """Load a state dict with or without the index tables, which follow from the arguments."""
        for name, index in self._index_tables().items():
            check_index_shape(name, state_dict.setdefault(prefix + name, index), index)
        super()._load_from_state_dict(state_dict, prefix, *arguments)

    def _index_tables(self) -> dict[str, Tensor]:
        return {
            "relative_position_index_SA": self_attention_index(self.window_size),
            "relative_position_index_OCA": overlap_index(self.window_size, self.extended_size),
        }


def _check_counts(**lists: tuple[Sequence[int], int]) -> None:
    for name, (values, length) in lists.items():
        if len(values) != length or min(values) < 1:
            raise UserError(
                f"PromptCIR: {name} needs {length} positive numbers, it is {list(values)}"
            )


def _check_sizes(
    dim: int, window_size: int, overlap_ratio: float, compress_ratio: int, squeeze_factor: int
) -> None:
    if dim < 2 or dim % 2:
        raise UserError(f"PromptCIR: dim must be even and at least 2, it is {dim}")
    if window_size < 2 or window_size % 2:
        raise UserError(f"PromptCIR: window_size must be even and positive, it is {window_size}")
    if (
        not 0 <= overlap_ratio <= 1
        or (extended_window(window_size, overlap_ratio) - window_size) % 2
    ):
        raise UserError(
            f"PromptCIR: overlap_ratio {overlap_ratio} must be from 0 to 1 and add an even number"
            f" of pixels to window_size {window_size}"
        )
    for name, divisor in (("compress_ratio", compress_ratio), ("squeeze_factor", squeeze_factor)):
        if not 1 <= divisor <= dim:
            raise UserError(
                f"PromptCIR: {name} must be from 1 to dim ({dim}), or no channel is left; it is"
                f" {divisor}"
            )


def _check_heads(dim: int, heads: Sequence[int], prompt_dims: Sequence[int]) -> None:
    levels = {f"level {i + 1}": (dim * 2**i, count) for i, count in enumerate(heads)}
    features = (dim * 2, dim * 4, dim * 8)
    for i, (channels, width) in enumerate(zip(features, prompt_dims, strict=True)):
        levels[f"prompt interaction {i + 1} (with prompt_dims)"] = (channels + width, heads[2])
    for place, (channels, count) in levels.items():
        if channels % count:
            raise UserError(
                f"PromptCIR: heads must divide the channels; {place} has {channels} channels and"
                f" {count} heads"
            )
