"""PromptCIR written down formula by formula; used by tests and benchmarks.

The same parameters and state-dict keys as ``cir_arch.promptcir_arch.PromptCIR``, without its
shortcuts: feature maps stay NCHW, each attention matrix is a tensor, the mask of the shifted
windows is rebuilt at every use, and the dynamic prompt is spread over tasks x bases x width x
pixels before it is summed. Height and width must be multiples of twice the window and of 8.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from einops import rearrange
from naive_steps import channel_attention, gated_feed_forward, shift_mask
from torch import Tensor, nn


def windows_of(x: Tensor, size: int) -> Tensor:
    """Cut (B, H, W, C) into (B * windows, size * size, C)."""
    return rearrange(x, "b (y i) (x j) c -> (b y x) (i j) c", i=size, j=size)


def map_of(windows: Tensor, size: int, height: int, width: int) -> Tensor:
    """Put the windows back: the inverse of :func:`windows_of`."""
    rows, columns = height // size, width // size
    return rearrange(
        windows, "(b y x) (i j) c -> b (y i) (x j) c", y=rows, x=columns, i=size, j=size
    )


def self_index(window: int) -> Tensor:
    """Relative position index of self attention, query minus key."""
    place = torch.stack(torch.meshgrid(*[torch.arange(window)] * 2, indexing="ij")).flatten(1)
    offset = place[:, :, None] - place[:, None, :] + window - 1
    return offset[0] * (2 * window - 1) + offset[1]


def overlap_index(window: int, extended: int) -> Tensor:
    """Relative position index of the overlapping attention, key minus query; may be negative."""
    query = torch.stack(torch.meshgrid(*[torch.arange(window)] * 2, indexing="ij")).flatten(1)
    key = torch.stack(torch.meshgrid(*[torch.arange(extended)] * 2, indexing="ij")).flatten(1)
    offset = key[:, None, :] - query[:, :, None] + window - extended + 1
    return offset[0] * (window + extended - 1) + offset[1]


class ChannelNorm(nn.Module):
    """Layer norm over the channels of (B, C, H, W)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Module()
        self.body.weight = nn.Parameter(torch.ones(channels))
        self.body.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        tokens = rearrange(x, "b c h w -> b (h w) c")
        mean = tokens.mean(-1, keepdim=True)
        variance = tokens.var(-1, keepdim=True, unbiased=False)
        tokens = (tokens - mean) / torch.sqrt(variance + 1e-5)
        tokens = tokens * self.body.weight + self.body.bias
        return rearrange(tokens, "b (h w) c -> b c h w", h=x.shape[2])


class GDFN(nn.Module):
    """Gated depthwise feed-forward network on (B, C, H, W)."""

    def __init__(self, channels: int, expansion: float, bias: bool) -> None:
        super().__init__()
        hidden = int(channels * expansion)
        self.project_in = nn.Conv2d(channels, 2 * hidden, 1, bias=bias)
        self.dwconv = nn.Conv2d(2 * hidden, 2 * hidden, 3, 1, 1, groups=2 * hidden, bias=bias)
        self.project_out = nn.Conv2d(hidden, channels, 1, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return gated_feed_forward(self, x)


class MDTA(nn.Module):
    """Attention between channels on (B, C, H, W)."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.temperature = nn.Parameter(torch.ones(heads, 1, 1))
        self.qkv = nn.Conv2d(channels, 3 * channels, 1, bias=False)
        self.qkv_dwconv = nn.Conv2d(
            3 * channels, 3 * channels, 3, 1, 1, groups=3 * channels, bias=False
        )
        self.project_out = nn.Conv2d(channels, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return channel_attention(self, x)


class TransformerBlock(nn.Module):
    """MDTA and GDFN, each behind a norm and with a residual."""

    def __init__(self, channels: int, heads: int, expansion: float) -> None:
        super().__init__()
        self.norm1 = ChannelNorm(channels)
        self.attn = MDTA(channels, heads)
        self.norm2 = ChannelNorm(channels)
        self.ffn = GDFN(channels, expansion, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.ffn(self.norm2(x))


class ChannelAttention(nn.Module):
    """Scale the channels of (B, C, H, W) by a gate of their spatial means."""

    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.attention = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(channels, squeezed, 1),
            nn.ReLU(),
            nn.Conv2d(squeezed, channels, 1),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x * self.attention(x)


class CAB(nn.Module):
    """Two convolutions and channel attention on (B, C, H, W)."""

    def __init__(self, channels: int, inner: int, squeezed: int) -> None:
        super().__init__()
        self.cab = nn.Sequential(
            nn.Conv2d(channels, inner, 3, 1, 1),
            nn.GELU(),
            nn.Conv2d(inner, channels, 3, 1, 1),
            ChannelAttention(channels, squeezed),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.cab(x)


class WindowAttention(nn.Module):
    """Self attention in windows of tokens (B * windows, N, C)."""

    def __init__(self, channels: int, window: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * window - 1) ** 2, heads))
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)

    def forward(self, tokens: Tensor, index: Tensor, mask: Tensor | None) -> Tensor:
        q, k, v = rearrange(
            self.qkv(tokens), "w n (three m d) -> three w m n d", three=3, m=self.heads
        ).unbind(0)
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
        scores = scores + rearrange(self.relative_position_bias_table[index], "q k m -> m q k")
        if mask is not None:
            by_image = rearrange(scores, "(b w) m q k -> b w m q k", w=len(mask))
            scores = (by_image + mask[:, None].to(scores)).flatten(0, 1)
        out = rearrange(scores.softmax(-1) @ v, "w m n d -> w n (m d)")
        return self.proj(out)


class HAB(nn.Module):
    """Hybrid attention block on a map (B, H, W, C)."""

    def __init__(self, channels: int, heads: int, shifted: bool, sizes: dict[str, float]) -> None:
        super().__init__()
        self.window = int(sizes["window_size"])
        self.shift = self.window // 2 if shifted else 0
        self.conv_scale = sizes["conv_scale"]
        self.norm1 = nn.LayerNorm(channels)
        self.attn = WindowAttention(channels, self.window, heads)
        self.conv_block = CAB(
            channels,
            channels // int(sizes["compress_ratio"]),
            channels // int(sizes["squeeze_factor"]),
        )
        self.norm2 = nn.LayerNorm(channels)
        self.ffn = GDFN(channels, sizes["ffn_expansion"], bias=True)

    def forward(self, x: Tensor, index: Tensor) -> Tensor:
        height, width = x.shape[1:3]
        y = self.norm1(x)
        convolved = rearrange(
            self.conv_block(rearrange(y, "b h w c -> b c h w")), "b c h w -> b h w c"
        )
        mask = None
        if self.shift:
            mask = shift_mask(height, width, self.window, self.shift, -100.0)
            y = y.roll((-self.shift, -self.shift), dims=(1, 2))
        y = map_of(self.attn(windows_of(y, self.window), index, mask), self.window, height, width)
        if self.shift:
            y = y.roll((self.shift, self.shift), dims=(1, 2))
        x = x + y + self.conv_scale * convolved
        return x + feed_forward(self.ffn, self.norm2(x))


class OCAB(nn.Module):
    """Overlapping cross attention block on a map (B, H, W, C)."""

    def __init__(self, channels: int, heads: int, sizes: dict[str, float]) -> None:
        super().__init__()
        self.heads = heads
        self.window = int(sizes["window_size"])
        self.extended = self.window + int(self.window * sizes["overlap_ratio"])
        self.relative_position_bias_table = nn.Parameter(
            torch.zeros((self.window + self.extended - 1) ** 2, heads)
        )
        self.norm1 = nn.LayerNorm(channels)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)
        self.norm2 = nn.LayerNorm(channels)
        self.ffn = GDFN(channels, sizes["ffn_expansion"], bias=True)

    def forward(self, x: Tensor, index: Tensor) -> Tensor:
        height, width = x.shape[1:3]
        q, k, v = self.qkv(self.norm1(x)).chunk(3, dim=-1)
        q = rearrange(windows_of(q, self.window), "w n (m d) -> w m n d", m=self.heads)
        unfolded = F.unfold(
            rearrange(torch.cat((k, v), dim=-1), "b h w c -> b c h w"),
            self.extended,
            padding=(self.extended - self.window) // 2,
            stride=self.window,
        )
        k, v = rearrange(
            unfolded, "b (two m d n) w -> two (b w) m n d", two=2, m=self.heads, d=q.shape[-1]
        ).unbind(0)
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
        scores = scores + rearrange(self.relative_position_bias_table[index], "q k m -> m q k")
        out = rearrange(scores.softmax(-1) @ v, "w m n d -> w n (m d)")
        x = x + self.proj(map_of(out, self.window, height, width))
        return x + feed_forward(self.ffn, self.norm2(x))


def feed_forward(ffn: GDFN, x: Tensor) -> Tensor:
    """Run a GDFN on a map (B, H, W, C)."""
    return rearrange(ffn(rearrange(x, "b h w c -> b c h w")), "b c h w -> b h w c")


class RHAG(nn.Module):
    """Residual hybrid attention group on (B, C, H, W)."""

    def __init__(self, channels: int, depth: int, heads: int, sizes: dict[str, float]) -> None:
        super().__init__()
        self.residual_group = nn.Module()
        self.residual_group.blocks = nn.ModuleList(
            HAB(channels, heads, shifted=i % 2 == 1, sizes=sizes) for i in range(depth)
        )
        self.residual_group.overlap_attn = OCAB(channels, heads, sizes)
        self.conv = nn.Conv2d(channels, channels, 3, 1, 1)

    def forward(self, x: Tensor, self_positions: Tensor, overlap_positions: Tensor) -> Tensor:
        y = rearrange(x, "b c h w -> b h w c")
        for block in self.residual_group.blocks:
            y = block(y, self_positions)
        y = self.residual_group.overlap_attn(y, overlap_positions)
        return x + self.conv(rearrange(y, "b h w c -> b c h w"))


class PromptMLP(nn.Module):
    """Two linear layers on the last axis."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels, out)
        self.fc2 = nn.Linear(out, out)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class DynamicPrompt(nn.Module):
    """Prompt of every pixel, a weighted sum over tasks and bases, for a map (B, C, H, W)."""

    def __init__(self, channels: int, tasks: int, bases: int, width: int) -> None:
        super().__init__()
        self.prompt = nn.Parameter(torch.rand(1, tasks, bases, width, 1, 1))
        self.basis_mlp = PromptMLP(channels, bases)
        self.task_mlp = PromptMLP(channels, tasks)
        self.conv3x3 = nn.Conv2d(width, width, 3, 1, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        pixels = rearrange(x, "b c h w -> b h w c")
        basis = rearrange(self.basis_mlp(pixels).softmax(-1), "b h w n -> b 1 n 1 h w")
        task = rearrange(self.task_mlp(pixels).softmax(-1), "b h w t -> b t 1 1 h w")
        return self.conv3x3((task * basis * self.prompt).sum(dim=(1, 2)))


class Resample(nn.Module):
    """3x3 convolution, then pixel unshuffle (halves the size) or shuffle (doubles it)."""

    def __init__(self, channels: int, out: int, shuffle: nn.Module) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(channels, out, 3, 1, 1, bias=False), shuffle)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


class PatchEmbed(nn.Module):
    """The first convolution."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_channels, channels, 3, 1, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x)


class NaivePromptCIR(nn.Module):
    """PromptCIR, (B, C, H, W) in and out; the arguments are those of ``PromptCIR``."""

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
    ) -> None:
        super().__init__()
        sizes = {
            "window_size": window_size,
            "overlap_ratio": overlap_ratio,
            "compress_ratio": compress_ratio,
            "squeeze_factor": squeeze_factor,
            "conv_scale": conv_scale,
            "ffn_expansion": ffn_expansion,
        }
        extended = window_size + int(window_size * overlap_ratio)
        self.register_buffer("relative_position_index_SA", self_index(window_size))
        self.register_buffer("relative_position_index_OCA", overlap_index(window_size, extended))

        def blocks(count: int, channels: int, count_heads: int) -> nn.Sequential:
            return nn.Sequential(
                *(TransformerBlock(channels, count_heads, ffn_expansion) for _ in range(count))
            )

        c1, c2, c3, c4 = dim, 2 * dim, 4 * dim, 8 * dim
        e1, e2, e3 = prompt_dims
        self.patch_embed_input = PatchEmbed(in_channels, c1)
        self.encoder_level1 = RHAG(c1, num_blocks[0], heads[0], sizes)
        self.down1_2 = Resample(c1, c1 // 2, nn.PixelUnshuffle(2))
        self.encoder_level2 = RHAG(c2, num_blocks[1], heads[1], sizes)
        self.down2_3 = Resample(c2, c2 // 2, nn.PixelUnshuffle(2))
        self.encoder_level3 = blocks(num_blocks[2], c3, heads[2])
        self.down3_4 = Resample(c3, c3 // 2, nn.PixelUnshuffle(2))
        self.latent = blocks(num_blocks[3], c4, heads[3])
        self.prompt3 = DynamicPrompt(c4, prompt_tasks, prompt_bases[2], e3)
        self.noise_level3 = TransformerBlock(c4 + e3, heads[2], ffn_expansion)
        self.reduce_noise_level3 = nn.Conv2d(c4 + e3, c3, 1, bias=False)
        self.up4_3 = Resample(c3, 2 * c3, nn.PixelShuffle(2))
        self.reduce_chan_level3 = nn.Conv2d(c2 + c3, c3, 1, bias=False)
        self.decoder_level3 = blocks(num_blocks[2], c3, heads[2])
        self.prompt2 = DynamicPrompt(c3, prompt_tasks, prompt_bases[1], e2)
        self.noise_level2 = TransformerBlock(c3 + e2, heads[2], ffn_expansion)
        self.reduce_noise_level2 = nn.Conv2d(c3 + e2, c3, 1, bias=False)
        self.up3_2 = Resample(c3, 2 * c3, nn.PixelShuffle(2))
        self.reduce_chan_level2 = nn.Conv2d(2 * c2, c2, 1, bias=False)
        self.decoder_level2 = RHAG(c2, num_blocks[1], heads[1], sizes)
        self.prompt1 = DynamicPrompt(c2, prompt_tasks, prompt_bases[0], e1)
        self.noise_level1 = TransformerBlock(c2 + e1, heads[2], ffn_expansion)
        self.reduce_noise_level1 = nn.Conv2d(c2 + e1, c2, 1, bias=False)
        self.up2_1 = Resample(c2, 2 * c2, nn.PixelShuffle(2))
        self.decoder_level1 = RHAG(2 * c1, num_blocks[0], heads[0], sizes)
        self.refinement = blocks(num_refinement_blocks, 2 * c1, heads[0])
        self.output = nn.Conv2d(2 * c1, in_channels, 3, 1, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        positions = self.relative_position_index_SA, self.relative_position_index_OCA
        e1 = self.encoder_level1(self.patch_embed_input(x), *positions)
        e2 = self.encoder_level2(self.down1_2(e1), *positions)
        e3 = self.encoder_level3(self.down2_3(e2))
        y = self.latent(self.down3_4(e3))
        y = self.noise_level3(torch.cat((y, self.prompt3(y)), dim=1))
        y = self.up4_3(self.reduce_noise_level3(y))
        y = self.decoder_level3(self.reduce_chan_level3(torch.cat((y, e3), dim=1)))
        y = self.noise_level2(torch.cat((y, self.prompt2(y)), dim=1))
        y = self.up3_2(self.reduce_noise_level2(y))
        y = self.reduce_chan_level2(torch.cat((y, e2), dim=1))
        y = self.decoder_level2(y, *positions)
        y = self.noise_level1(torch.cat((y, self.prompt1(y)), dim=1))
        y = self.up2_1(self.reduce_noise_level1(y))
        y = self.decoder_level1(torch.cat((y, e1), dim=1), *positions)
        return self.output(self.refinement(y)) + x
