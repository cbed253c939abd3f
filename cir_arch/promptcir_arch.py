"""PromptCIR, blind restoration of compressed images by prompt learning.

Li et al., PromptCIR: Blind Compressed Image Restoration with Prompt Learning, CVPR Workshops 2024,
https://arxiv.org/abs/2404.17433. The authors' release (inference only, Apache-2.0) is
https://github.com/lbc12345/PromptCIR-NTIRE24; its checkpoints load here unchanged.

Computes the same function as the release. Differences:

- The network with prompts is the default. The release's default has none.
- The window size is an argument. The release's masks are wrong for any size but 16.
- Any image size from 1 x 1 on works. The release needs multiples of 32.
- Prompts are summed by a matrix product. The release stores tasks x bases x width x pixels, 470 MB
  for one 128 x 128 image in float32.
- Four masks serve all windows of all image sizes. The release builds one per window, on the CPU, in
  every group of every call.
- Masks and biases have the dtype of the attention, so that bfloat16 weights work.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
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
from cir_arch.layers.hybrid_network import HybridAttentionNetwork, check_hybrid_sizes
from cir_arch.layers.initialization import init_linear_layers
from cir_arch.layers.padding import PaddingRule, checked_size, crop_to
from cir_arch.layers.patch_embedding import PatchEmbedding
from cir_arch.layers.resample import Downsample, Upsample
from cir_arch.layers.transformer_block import TransformerBlock
from cir_arch.layers.unet import LEVELS, gdfn_widths
from cir_arch.network import RestorationNetwork, Weights, network
from cir_arch.state_dict import State, entry_count, ratio
from cir_host.errors import UserError


@network(
    paper="[Li et al., CVPRW 2024](https://arxiv.org/abs/2404.17433), winner of the NTIRE 2024"
    " challenge on blind enhancement of compressed images",
    gmacs=64.85,
    small={
        "dim": 8,
        "num_blocks": (2, 2, 1, 1),
        "num_refinement_blocks": 1,
        "heads": (1, 2, 2, 4),
        "ffn_expansion": 2.0,
        "window_size": 4,
        "compress_ratio": 2,
        "squeeze_factor": 1,
        "prompt_tasks": 3,
        "prompt_bases": (4, 6, 8),
        "prompt_dims": (4, 8, 16),
    },
    weights=(
        Weights(
            "https://github.com/lbc12345/PromptCIR-NTIRE24 (README, Google Drive)",
            "model_best.pth, model_best2.pth",
            "state dict",
            "Apache-2.0",
            "colour JPEG of quality 10 to 70, NTIRE 2024; the winning entry averages the two",
        ),
    ),
)
class PromptCIR(HybridAttentionNetwork, RestorationNetwork):
    """U-Net of four levels whose decoder adds a dynamic prompt to the features at each step up.

    Levels 1 and 2 are residual hybrid attention groups; level 3 and the latent level are
    transformer blocks with attention between channels. The defaults give the published network.

    Args:
        in_channels: Channels of input and output image.
        dim: Channels of level 1; the levels below have 2, 4 and 8 times as many.
        num_blocks: Blocks of level 1, 2, 3 and the latent level; each decoder level mirrors its
            encoder level.
        num_refinement_blocks: Transformer blocks after the decoder.
        heads: Attention heads of level 1, 2, 3 and the latent level. The refinement has those of
            level 1, all prompt interactions have those of level 3.
        ffn_expansion: Hidden over outer channels of the feed-forward networks.
        window_size: Side of the attention windows in pixels of their level.
        overlap_ratio: The key windows of the overlapping attention are larger than ``window_size``
            by this part of it.
        compress_ratio: Outer over inner channels of the convolution blocks beside the attention.
        squeeze_factor: Channels over squeezed channels of their channel attention.
        conv_scale: Weight of these convolution blocks.
        prompt_tasks: Length of the prompts' task axis.
        prompt_bases: Prompt bases of the prompts of level 1, 2 and 3.
        prompt_dims: Channels of these three prompts.
        zero_last: Start the last convolution at zero: the untrained network is the identity.
        use_checkpoint: Gradient checkpointing: recompute each block in the backward pass.

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
        _check_counts(num_blocks=(num_blocks, 4), heads=(heads, 4))
        _check_counts(prompt_bases=(prompt_bases, 3), prompt_dims=(prompt_dims, 3))
        sizes = HybridSizes(
            window_size,
            overlap_ratio,
            compress_ratio,
            squeeze_factor,
            conv_scale,
            "gdfn",
            ffn_expansion,
        )
        if dim < 2 or dim % 2:
            raise UserError(f"dim: {dim} channels cannot be halved; give an even number from 2 on")
        check_hybrid_sizes(sizes, dim)
        _check_heads(dim, heads, prompt_dims)
        super().__init__(sizes)
        self.in_channels = in_channels
        # Windows of level 2 are twice as large in the image; the latent level is an eighth of it.
        self.padding = PaddingRule(math.lcm(8, 2 * window_size), "reflect")

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
        self.patch_embed_input = PatchEmbedding(
            MapConv2d(in_channels, c1, 3, padding=1, bias=False)
        )
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
            # conv_scale: cannot be deduced. zero_last: for training only.
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
        """What tools need to know about this network."""
        return NetworkFacts(
            size_multiple=self.padding.multiple,
            min_size=1,
            scale=1,
            halo=None,
            in_channels=self.in_channels,
            precisions=frozenset({"fp32", "bf16", "fp16"}),
            padding=self.padding,
        )

    def forward(self, x: Tensor) -> Tensor:
        """Restore images (B, C, H, W), RGB in [0, 1]; same shape, not clamped.

        Sides that are not multiples of 32 (twice the window) are padded at bottom and right by
        reflection (replication where a side is too short), and the result is cropped.

        Raises:
            UserError: If the number of channels is not the network's.
        """
        height, width = checked_size(x, self.in_channels, "in_channels")
        padded = self.padding.pad(x)
        out = padded + to_image(self._residual(to_map(padded)))
        return crop_to(out, height, width)

    def _residual(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to what is added to it; H and W are multiples of ``size_multiple``."""
        positions = self.positions
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


def _check_counts(**lists: tuple[Sequence[int], int]) -> None:
    for name, (values, length) in lists.items():
        if len(values) != length or min(values) < 1:
            raise UserError(f"{name}: give {length} positive numbers, not {list(values)}")


def _check_heads(dim: int, heads: Sequence[int], prompt_dims: Sequence[int]) -> None:
    levels = {f"level {i + 1}": (dim * 2**i, count) for i, count in enumerate(heads)}
    features = (dim * 2, dim * 4, dim * 8)
    for i, (channels, width) in enumerate(zip(features, prompt_dims, strict=True)):
        levels[f"prompt interaction {i + 1} (with prompt_dims)"] = (channels + width, heads[2])
    for place, (channels, count) in levels.items():
        if channels % count:
            raise UserError(
                f"heads: must divide the channels; {place} has {channels} channels and "
                f"{count} heads"
            )
