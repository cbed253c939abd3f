"""PromptIR, all-in-one restoration with prompts, the baseline that PromptCIR is compared with.

Potlapalli et al., PromptIR: Prompting for All-in-One Blind Image Restoration, NeurIPS 2023,
https://arxiv.org/abs/2306.13090. The authors' release (non-commercial) is
https://github.com/va1shn9v/PromptIR; its weights load here unchanged.

Computes the same function as the release. Differences:

- The network with prompts is the default. The release's default has none.
- Any image size from 1 x 1 on works. The release needs multiples of 8.
- Prompts are mixed by one matrix product; the release copies them for each image of a batch first.
- The sizes of the prompts are arguments. The release fixes them.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cir_arch.facts import NetworkFacts
from cir_arch.layers.convolution import MapConv2d, to_map
from cir_arch.layers.patch_embedding import PatchEmbedding
from cir_arch.layers.transformer_block import TransformerBlock
from cir_arch.layers.unet import (
    PADDING,
    UNet,
    UNetSizes,
    gdfn_widths,
    unet_arguments,
)
from cir_arch.network import RestorationNetwork, Weights, network
from cir_arch.state_dict import State, ratio
from cir_host.errors import UserError


class ImagePrompt(nn.Module):
    """One prompt for the whole image: a mixture of learned maps, resized to the features.

    The prompt generation module of PromptIR, section 3.2.1, eq. 3: a linear layer maps the spatial
    means of the features to logits, and their softmax gives the weights.
    """

    def __init__(self, channels: int, count: int, width: int, size: int) -> None:
        super().__init__()
        self.prompt_param = nn.Parameter(torch.rand(1, count, width, size, size))
        self.linear_layer = nn.Linear(channels, count)
        self.conv3x3 = MapConv2d(width, width, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map features (B, H, W, C) to prompts (B, H, W, E)."""
        weights = self.linear_layer(x.mean(dim=(1, 2))).softmax(dim=-1)
        maps = self.prompt_param.squeeze(0)
        mixed = (weights.to(maps.dtype) @ maps.flatten(1)).unflatten(-1, maps.shape[1:])
        resized = F.interpolate(mixed, x.shape[1:3], mode="bilinear", align_corners=False)
        prompt: Tensor = self.conv3x3(to_map(resized))
        return prompt


@network(
    paper="[Potlapalli et al., NeurIPS 2023](https://arxiv.org/abs/2306.13090)",
    gmacs=43.18,
    small={
        "dim": 8,
        "num_blocks": (1, 1, 1, 1),
        "num_refinement_blocks": 1,
        "prompt_len": 3,
        "prompt_dims": (8, 12, 16),
        "prompt_sizes": (9, 5, 3),
    },
    weights=(
        Weights(
            "https://github.com/va1shn9v/PromptIR (README)",
            "a Lightning checkpoint",
            "state_dict, names begin with net.",
            "academic, non-commercial",
            "noise, rain and haze, not JPEG",
        ),
    ),
    unused_parameters=r"(chnl_reduce|reduce_noise_channel_)\d\.weight",  # ``unused_modules``
)
class PromptIR(UNet, RestorationNetwork):
    """Restormer whose decoder adds a prompt to the features before each step up.

    The defaults give the published network. ``prompt_len=7`` gives the one that the PromptCIR paper
    compares with: one prompt for each of seven qualities.

    The published checkpoints hold six convolutions that ``forward`` never uses; so does this
    network, see ``unused_modules``. Distributed training needs ``find_unused_parameters: true``.

    Args:
        in_channels: Channels of input and output image.
        dim: Channels of level 1; the levels below have 2, 4 and 8 times as many.
        num_blocks: Blocks of level 1, 2, 3 and the latent level; each decoder level mirrors its
            encoder level.
        num_refinement_blocks: Blocks after the decoder.
        heads: Attention heads of level 1, 2, 3 and the latent level. The refinement has those of
            level 1, all prompt interactions have those of level 3.
        ffn_expansion: Hidden over outer channels of the feed-forward networks.
        prompt_len: Learned maps that each prompt is mixed from.
        prompt_dims: Channels of the prompts of level 1, 2 and 3.
        prompt_sizes: Height and width of the learned maps of these three prompts.
        zero_last: Start the last convolution at zero: the untrained network is the identity.
        use_checkpoint: Gradient checkpointing: recompute each block in the backward pass.

    Raises:
        UserError: If arguments contradict each other; the message names them.
    """

    unused_modules = (
        *(f"chnl_reduce{level}" for level in (1, 2, 3)),
        *(f"reduce_noise_channel_{level}" for level in (1, 2, 3)),
    )
    """In the state dict only; ``forward`` does not use them."""

    def __init__(
        self,
        in_channels: int = 3,
        dim: int = 48,
        num_blocks: Sequence[int] = (4, 6, 6, 8),
        num_refinement_blocks: int = 4,
        heads: Sequence[int] = (1, 2, 4, 8),
        ffn_expansion: float = 2.66,
        prompt_len: int = 5,
        prompt_dims: Sequence[int] = (64, 128, 320),
        prompt_sizes: Sequence[int] = (64, 32, 16),
        zero_last: bool = False,
        use_checkpoint: bool = False,
    ) -> None:
        sizes = UNetSizes(in_channels, dim, num_blocks, num_refinement_blocks, heads)
        c1, c2, c3, c4 = sizes.widths
        _check_prompts(prompt_dims, prompt_sizes, (c2, c3, c4), heads[2])
        super().__init__(
            sizes,
            PatchEmbedding(MapConv2d(in_channels, c1, 3, padding=1, bias=False)),
            lambda channels, count: TransformerBlock(channels, count, ffn_expansion),
            latent_out=c3,
            use_checkpoint=use_checkpoint,
        )

        def prompt(channels: int, level: int) -> ImagePrompt:
            width, size = prompt_dims[level - 1], prompt_sizes[level - 1]
            return ImagePrompt(channels, prompt_len, width, size)

        def interaction(channels: int) -> TransformerBlock:
            return TransformerBlock(channels, heads[2], ffn_expansion)

        def conv1x1(channels: int, out_channels: int) -> MapConv2d:
            return MapConv2d(channels, out_channels, 1, bias=False)

        p1, p2, p3 = prompt_dims
        self.prompt3 = prompt(c4, 3)
        self.noise_level3 = interaction(c4 + p3)
        self.reduce_noise_level3 = conv1x1(c4 + p3, c3)
        self.prompt2 = prompt(c3, 2)
        self.noise_level2 = interaction(c3 + p2)
        self.reduce_noise_level2 = conv1x1(c3 + p2, c3)
        self.prompt1 = prompt(c2, 1)
        self.noise_level1 = interaction(c2 + p1)
        self.reduce_noise_level1 = conv1x1(c2 + p1, c2)
        # Unused, in published checkpoints. Their widths do not follow from prompt_dims.
        self.chnl_reduce1 = conv1x1(64, 64)
        self.chnl_reduce2 = conv1x1(128, 128)
        self.chnl_reduce3 = conv1x1(320, 256)
        self.reduce_noise_channel_1 = conv1x1(c1 + 64, c1)
        self.reduce_noise_channel_2 = conv1x1(c2 + 128, c2)
        self.reduce_noise_channel_3 = conv1x1(c3 + 256, c3)
        if zero_last:
            nn.init.zeros_(self.output.weight)

    @classmethod
    def arguments_from(cls, state: State) -> dict[str, Any] | None:
        """Read the arguments off a state dict; None if it is of another network."""
        if not {"patch_embed.proj.weight", "prompt1.linear_layer.weight"} <= state.keys():
            return None
        prompts = [state[f"prompt{level}.prompt_param"].shape for level in (1, 2, 3)]
        return {
            # zero_last: for training only.
            **unet_arguments(state, attention="attn"),
            "ffn_expansion": ratio(gdfn_widths(state), 2.66),
            "prompt_len": prompts[0][1],
            "prompt_dims": [shape[2] for shape in prompts],
            "prompt_sizes": [shape[3] for shape in prompts],
        }

    @property
    def facts(self) -> NetworkFacts:
        """What tools need to know about this network."""
        return NetworkFacts(
            size_multiple=PADDING.multiple,
            min_size=1,
            scale=1,
            halo=None,
            in_channels=self.in_channels,
            precisions=frozenset({"fp32", "bf16", "fp16"}),
            padding=PADDING,
        )

    def before_upsampling(self, y: Tensor, level: int) -> Tensor:
        """Join the prompt to features (B, H, W, C), run the interaction, reduce the channels."""
        prompt = self.get_submodule(f"prompt{level}")(y)
        y = self.get_submodule(f"noise_level{level}")(torch.cat((y, prompt), dim=-1))
        reduced: Tensor = self.get_submodule(f"reduce_noise_level{level}")(y)
        return reduced


def _check_prompts(
    prompt_dims: Sequence[int], prompt_sizes: Sequence[int], widths: Sequence[int], heads: int
) -> None:
    for name, values in (("prompt_dims", prompt_dims), ("prompt_sizes", prompt_sizes)):
        if len(values) != 3:
            raise UserError(
                f"{name}: {list(values)} has {len(values)} numbers; give three, for level 1, 2, 3"
            )
    for width, features in zip(prompt_dims, widths, strict=True):
        if (width + features) % heads:
            raise UserError(
                f"prompt_dims: {features} features and {width} prompt channels cannot be shared "
                f"out evenly among {heads} heads (the third number of heads)"
            )
