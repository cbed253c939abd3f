"""Steps shared by the naive forms of several networks, written as in their formulas.

Maps are (B, C, H, W). A layer is a module that holds the weights, whatever its own ``forward``.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn


def conv(layer: nn.Conv2d, x: Tensor) -> Tensor:
    """Convolve with zero padding; the size stays."""
    padding = layer.weight.shape[-1] // 2
    return F.conv2d(x, layer.weight, layer.bias, padding=padding, groups=layer.groups)


def linear(layer: nn.Linear, x: Tensor) -> Tensor:
    """Apply a linear layer to the channels of each pixel."""
    return F.linear(x.movedim(1, -1), layer.weight, layer.bias).movedim(-1, 1)


def norm(layer: nn.Module, x: Tensor, epsilon: float = 1e-5) -> Tensor:
    """Normalise the channels of each pixel."""
    weight, bias = layer.weight, layer.bias
    return F.layer_norm(x.movedim(1, -1), weight.shape, weight, bias, epsilon).movedim(-1, 1)


def mlp(layer: nn.Module, x: Tensor) -> Tensor:
    """Apply two linear layers with exact GELU between them to the channels of each pixel."""
    return linear(layer.fc2, F.gelu(linear(layer.fc1, x)))


def channel_attention(layer: nn.Module, x: Tensor) -> Tensor:
    """MDTA: attention between channels."""
    qkv = conv(layer.qkv_dwconv, conv(layer.qkv, x))
    q, k, v = rearrange(qkv, "b (three m d) h w -> three b m d (h w)", three=3, m=layer.heads)
    q, k = F.normalize(q, dim=-1), F.normalize(k, dim=-1)
    attention = ((q @ k.transpose(-2, -1)) * layer.temperature).softmax(dim=-1)
    out = rearrange(attention @ v, "b m d (h w) -> b (m d) h w", h=x.shape[2])
    return conv(layer.project_out, out)


def gated_feed_forward(layer: nn.Module, x: Tensor) -> Tensor:
    """GDFN."""
    gate, value = conv(layer.dwconv, conv(layer.project_in, x)).chunk(2, dim=1)
    return conv(layer.project_out, F.gelu(gate) * value)


def u_net(
    network: nn.Module,
    y: Tensor,
    transform: Callable[[nn.Module, Tensor], Tensor],
    before_upsampling: Callable[[Tensor, int], Tensor] = lambda y, level: y,
) -> Tensor:
    """Restormer's U-Net on the features of level 1; ``transform`` runs one block."""

    def chain(name: str, y: Tensor) -> Tensor:
        for block in network.get_submodule(name):
            y = transform(block, y)
        return y

    skips = []
    for level, down in ((1, network.down1_2), (2, network.down2_3), (3, network.down3_4)):
        skips.append(chain(f"encoder_level{level}", y))
        y = F.pixel_unshuffle(conv(down.body[0], skips[-1]), 2)
    y = chain("latent", y)
    for level, up in ((3, network.up4_3), (2, network.up3_2), (1, network.up2_1)):
        y = F.pixel_shuffle(conv(up.body[0], before_upsampling(y, level)), 2)
        y = torch.cat((y, skips.pop()), 1)
        if level > 1:
            y = conv(network.get_submodule(f"reduce_chan_level{level}"), y)
        y = chain(f"decoder_level{level}", y)
    return chain("refinement", y)


def cut(x: Tensor, window: int) -> Tensor:
    """Cut a map into tokens (windows, N, C)."""
    return rearrange(x, "b c (y i) (x j) -> (b y x) (i j) c", i=window, j=window)


def join(tokens: Tensor, window: int, height: int, width: int) -> Tensor:
    """Put windows of tokens back into a map."""
    rows, columns = height // window, width // window
    pattern = "(b y x) (i j) c -> b c (y i) (x j)"
    return rearrange(tokens, pattern, y=rows, x=columns, i=window)


def shift_mask(height: int, width: int, window: int, shift: int, masked: float) -> Tensor:
    """Return (windows of one image, N, N): ``masked`` between regions of a rolled map, or 0."""
    rows, columns = (
        (torch.arange(side) >= side - window).int() + (torch.arange(side) >= side - shift).int()
        for side in (height, width)
    )
    regions = (3 * rows[:, None] + columns).view(1, 1, height, width)
    labels = cut(regions, window)[..., 0]
    different = labels[:, :, None] != labels[:, None, :]
    return torch.zeros(different.shape).masked_fill(different, masked)


def attend(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor, heads: int, mask: Tensor | None = None
) -> Tensor:
    """Attention of tokens (W, N, C) to (W, N', C); bias (N, N', heads), mask (W, N, N')."""
    q, k, v = (rearrange(tokens, "w n (m d) -> w m n d", m=heads) for tokens in (q, k, v))
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1) + bias.permute(2, 0, 1)
    if mask is not None:
        scores = scores + mask[:, None]
    return rearrange(scores.softmax(-1) @ v, "w m n d -> w n (m d)")
