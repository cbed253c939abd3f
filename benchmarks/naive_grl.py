"""GRL computed step by step, without our optimizations; used by tests and benchmarks.

The parameters are the networks' own; only the computation differs. An index for every pair of
tokens, one mask for every window and stripe of every call, whole attention matrices, (B, C, H, W)
maps. No drop path.
"""

import math

import torch
import torch.nn.functional as F
from einops import rearrange
from naive_hat import RGB_MEAN, gated_convolutions
from naive_steps import conv, linear, mlp, norm
from torch import Tensor

from cir_arch.grl_arch import GRL, GRLBlock
from cir_arch.layers.stripe_attention import CosineScores, MixedAttention


class NaiveGRL(GRL):
    """GRL for images whose sides are multiples of the largest side of windows and stripes."""

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, 3, H, W) to the same shape."""
        mean = torch.tensor(RGB_MEAN).to(x).view(1, 3, 1, 1)
        image = (x - mean) * self.image_range.img_range
        shallow = conv(self.conv_first, image)
        y = norm(self.norm_start, shallow)
        for stage in self.layers:
            deep = y
            for i, block in enumerate(stage.blocks):
                deep = self._block(block, deep, i)
            y = y + conv(stage.conv, deep)
        y = conv(self.conv_after_body, norm(self.norm_end, y)) + shallow
        return (image + conv(self.conv_last, y)) / self.image_range.img_range + mean

    def _block(self, block: GRLBlock, x: Tensor, i: int) -> Tensor:
        y = x + norm(block.norm1, mixed_attention(block.attn, x, i, self))
        if block.conv is not None:
            y = y + gated_convolutions(block.conv, x)
        return y + norm(block.norm2, mlp(block.mlp, y))


def mixed_attention(attention: MixedAttention, x: Tensor, i: int, settings: NaiveGRL) -> Tensor:
    """Attend in windows and in stripes, as block ``i`` of a stage."""
    height, width = settings.stripe_size if i % 2 == 0 else settings.stripe_size[::-1]
    factor, window = settings.anchor_window_down_factor, settings.window_size
    of_windows, of_stripes = linear(attention.qkv.body, x).chunk(2, dim=1)
    anchors = linear(attention.anchor["body"][0].reduction, F.avg_pool2d(x, factor))

    square, shift = (window, window), window // 2 if i % 2 == 0 else 0
    q, k, v = (cut(part, square, (shift, shift)) for part in of_windows.chunk(3, 1))
    labels = regions(x, square, (shift, shift))
    scores = attention.window_attn.attn_transform
    out = attend(scores, q, k, v, position_bias(scores, square, square), labels, labels)
    in_windows = join(out, x, square, (shift, shift))

    down, right = (height // 2, width // 2) if i % 4 >= 2 else (0, 0)
    pixels, shifts = (height, width), (down, right)
    few, few_shifts = (height // factor, width // factor), (down // factor, right // factor)
    q, k, v = (cut(part, pixels, shifts) for part in of_stripes.chunk(3, 1))
    a = cut(anchors, few, few_shifts)
    labels, of_anchors = regions(x, pixels, shifts), regions(anchors, few, few_shifts)
    scores = attention.stripe_attn.attn_transform1
    gathered = attend(scores, a, k, v, position_bias(scores, few, pixels), of_anchors, labels)
    scores = attention.stripe_attn.attn_transform2
    bias = position_bias(scores, few, pixels, sign=-1).transpose(1, 2)
    in_stripes = join(attend(scores, q, a, gathered, bias, labels, of_anchors), x, pixels, shifts)
    return linear(attention.proj, torch.cat((in_windows, in_stripes), 1))


def attend(
    scores: CosineScores,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor,
    query_labels: Tensor,
    key_labels: Tensor,
) -> Tensor:
    """Attend from tokens (B W, N, C) to (B W, N', C).

    Args:
        scores: Holds the parameters.
        q: Queries.
        k: Keys.
        v: Values.
        bias: Of each head and pair, (heads, N, N').
        query_labels: Region of each query, (W, N).
        key_labels: Region of each key, (W, N').
    """
    heads = len(scores.logit_scale)
    q, k, v = (rearrange(tokens, "w n (m d) -> w m n d", m=heads) for tokens in (q, k, v))
    q, k = (y / y.norm(dim=-1, keepdim=True).clamp(min=1e-12) for y in (q, k))
    temperature = scores.logit_scale.clamp(max=math.log(100)).exp()
    different = query_labels[:, :, None] != key_labels[:, None, :]
    mask = torch.zeros(different.shape).to(q).masked_fill(different, -100)
    mask = mask.repeat(len(q) // len(mask), 1, 1)[:, None]
    attention = (q @ k.transpose(-2, -1) * temperature + bias + mask).softmax(-1)
    return rearrange(attention @ v, "w m n d -> w n (m d)")


def position_bias(
    scores: CosineScores, few: tuple[int, int], pixels: tuple[int, int], sign: int = 1
) -> Tensor:
    """Return the bias (heads, N, N') of few tokens, in the middle of the cell, and its pixels.

    ``sign``: 1 where the few are queries, -1 where they are keys.
    """
    places, indices = [], []
    for count, side in zip(few, pixels, strict=True):
        middle = (side - count) // 2
        offsets = torch.arange(count)[:, None] + middle - torch.arange(side)
        place = 8 * torch.arange(offsets.min(), offsets.max() + 1).double() / (side - 1 - middle)
        places.append(sign * place.sign() * torch.log2(1 + place.abs()) / 3)
        indices.append(offsets - offsets.min())
    first, _, second = scores.cpb_mlp
    table = torch.stack(torch.meshgrid(*places, indexing="ij"), -1).to(first.weight)
    table = F.linear(F.relu(F.linear(table, first.weight, first.bias)), second.weight)
    rows, columns = indices
    index = len(places[1]) * rows[:, None, :, None] + columns[None, :, None, :]
    pairs = table.flatten(0, 1)[index]
    return 16 * rearrange(pairs, "i j k l m -> m (i j) (k l)").sigmoid()


def cut(x: Tensor, sides: tuple[int, int], shifts: tuple[int, int]) -> Tensor:
    """Roll a map up and left and cut it into tokens (B W, N, C)."""
    x = x.roll((-shifts[0], -shifts[1]), (2, 3))
    return rearrange(x, "b c (y i) (x j) -> (b y x) (i j) c", i=sides[0], j=sides[1])


def join(tokens: Tensor, x: Tensor, sides: tuple[int, int], shifts: tuple[int, int]) -> Tensor:
    """Put tokens back into a map of the size of ``x`` and roll it down and right."""
    rows = x.shape[2] // sides[0]
    pattern = "(b y x) (i j) c -> b c (y i) (x j)"
    out = rearrange(tokens, pattern, b=len(x), y=rows, i=sides[0])
    return out.roll(shifts, (2, 3))


def regions(x: Tensor, sides: tuple[int, int], shifts: tuple[int, int]) -> Tensor:
    """Label the tokens (W, N) of a rolled map by three ranges of rows times three of columns."""
    rows, columns = (
        (torch.arange(size) >= size - side).int() + (torch.arange(size) >= size - shift).int()
        for size, side, shift in zip(x.shape[2:], sides, shifts, strict=True)
    )
    labels = (3 * rows[:, None] + columns)[None, None]
    return cut(labels, sides, (0, 0))[..., 0]
