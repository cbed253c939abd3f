"""HAT computed step by step as its paper says, without any of our savings: tests, benchmarks.

The parameters are ``HAT``'s own; only the computation is another. One mask for every window of
every call, whole attention matrices, unfolded keys and values, (B, C, H, W) maps. No drop path.
"""

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from cir_arch.hat_arch import HAT
from cir_arch.layers.channel_attention import CAB
from cir_arch.layers.hybrid_attention import HAB, OCAB, RHAG

RGB_MEAN = (0.4488, 0.4371, 0.4040)


class NaiveHAT(HAT):
    """HAT for images whose sides are multiples of the window."""

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, 3, H, W) to (B, 3, H * upscale, W * upscale)."""
        mean = x.new_tensor(RGB_MEAN).view(1, 3, 1, 1)
        shallow = conv(self.conv_first, (x - mean) * self.img_range)
        y = norm(self.patch_embed["norm"], shallow)
        for group in self.layers:
            y = self._group(group, y)
        y = shallow + conv(self.conv_after_body, norm(self.norm, y))
        y = F.leaky_relu(conv(self.conv_before_upsample[0], y), 0.01)
        for layer in self.upsample[::2]:
            y = F.pixel_shuffle(conv(layer, y), round((len(layer.weight) / y.shape[1]) ** 0.5))
        return conv(self.conv_last, y) / self.img_range + mean

    def _group(self, group: RHAG, x: Tensor) -> Tensor:
        y = x
        for i, block in enumerate(group.residual_group.blocks):
            y = self._block(block, y, self.window_size // 2 if i % 2 else 0)
        return x + conv(group.conv, self._overlapping(group.residual_group.overlap_attn, y))

    def _block(self, block: HAB, x: Tensor, shift: int) -> Tensor:
        window, heads, attention = self.window_size, block.attn.heads, block.attn
        y = norm(block.norm1, x)
        tokens = cut(y.roll((-shift, -shift), (2, 3)), window)
        q, k, v = F.linear(tokens, attention.qkv.weight, attention.qkv.bias).chunk(3, -1)
        table = attention.relative_position_bias_table
        mask = shift_mask(*x.shape[2:], window, shift).to(x).repeat(len(x), 1, 1)
        out = attend(q, k, v, table[self.relative_position_index_SA], mask, heads)
        out = F.linear(out, attention.proj.weight, attention.proj.bias)
        attended = join(out, window, *x.shape[2:]).roll((shift, shift), (2, 3))
        x = x + attended + block.conv_scale * gated_convolutions(block.conv_block, y)
        return x + feed_forward(block, x)

    def _overlapping(self, block: OCAB, x: Tensor) -> Tensor:
        window, extended, heads = self.window_size, self.extended_size, block.heads
        y = rearrange(norm(block.norm1, x), "b c h w -> b h w c")
        qkv = rearrange(F.linear(y, block.qkv.weight, block.qkv.bias), "b h w c -> b c h w")
        q, kv = qkv.split((x.shape[1], 2 * x.shape[1]), dim=1)
        unfolded = F.unfold(kv, extended, padding=(extended - window) // 2, stride=window)
        k, v = rearrange(unfolded, "b (two c n) w -> two (b w) n c", two=2, n=extended**2)
        table = block.relative_position_bias_table
        bias = table[self.relative_position_index_OCA]
        out = attend(cut(q, window), k, v, bias, torch.zeros(()), heads)
        out = F.linear(out, block.proj.weight, block.proj.bias)
        x = x + join(out, window, *x.shape[2:])
        return x + feed_forward(block, x)


def conv(layer: torch.nn.Conv2d, x: Tensor) -> Tensor:
    """Convolve (B, C, H, W), 3x3, zero padding."""
    return F.conv2d(x, layer.weight, layer.bias, padding=layer.weight.shape[-1] // 2)


def norm(layer: torch.nn.LayerNorm, x: Tensor) -> Tensor:
    """Normalise the channels of each pixel of (B, C, H, W)."""
    centred = x - x.mean(1, keepdim=True)
    normed = centred / (centred.square().mean(1, keepdim=True) + 1e-5).sqrt()
    return normed * layer.weight[:, None, None] + layer.bias[:, None, None]


def gelu(x: Tensor) -> Tensor:
    """Exact GELU: x times the normal distribution function of x."""
    return x * 0.5 * (1 + torch.erf(x / 2**0.5))


def cut(x: Tensor, window: int) -> Tensor:
    """Cut (B, C, H, W) into tokens (windows, N, C)."""
    return rearrange(x, "b c (y i) (x j) -> (b y x) (i j) c", i=window, j=window)


def join(tokens: Tensor, window: int, height: int, width: int) -> Tensor:
    """Put windows of tokens back to (B, C, H, W)."""
    rows, columns = height // window, width // window
    pattern = "(b y x) (i j) c -> b c (y i) (x j)"
    return rearrange(tokens, pattern, y=rows, x=columns, i=window)


def shift_mask(height: int, width: int, window: int, shift: int) -> Tensor:
    """Return (windows of one image, N, N): -100 for tokens of different regions of a rolled map."""
    rows, columns = (
        (torch.arange(side) >= side - window).int() + (torch.arange(side) >= side - shift).int()
        for side in (height, width)
    )
    regions = (3 * rows[:, None] + columns).view(1, 1, height, width) * (shift > 0)
    labels = cut(regions, window)[..., 0]
    return -100.0 * (labels[:, :, None] != labels[:, None, :])


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, mask: Tensor, heads: int) -> Tensor:
    """Attention of tokens (W, N, C) to (W, N', C); bias (N, N', heads), mask (W, N, N')."""
    outputs = []
    parts = zip(q.chunk(heads, -1), k.chunk(heads, -1), v.chunk(heads, -1), strict=True)
    for head, (q_, k_, v_) in enumerate(parts):
        scores = q_ * q_.shape[-1] ** -0.5 @ k_.transpose(1, 2) + bias[..., head] + mask
        outputs.append(scores.softmax(-1) @ v_)
    return torch.cat(outputs, -1)


def gated_convolutions(block: CAB, x: Tensor) -> Tensor:
    """Two convolutions and the gate of their channels on (B, C, H, W)."""
    y = conv(block.cab[2], gelu(conv(block.cab[0], x)))
    squeeze, expand = block.cab[3].attention[1], block.cab[3].attention[3]
    means = y.mean((2, 3), keepdim=True)
    return y * torch.sigmoid(conv(expand, F.relu(conv(squeeze, means))))


def feed_forward(block: HAB | OCAB, x: Tensor) -> Tensor:
    """Second half of a block on (B, C, H, W), without the residual."""
    y = rearrange(norm(block.norm2, x), "b c h w -> b h w c")
    y = gelu(F.linear(y, block.mlp.fc1.weight, block.mlp.fc1.bias))
    y = F.linear(y, block.mlp.fc2.weight, block.mlp.fc2.bias)
    return rearrange(y, "b h w c -> b c h w")
