"""WaveletUNet, our reading of the MiAlgo team's network of the RAIM challenge.

Liang et al., NTIRE 2024 Restore Any Image Model (RAIM) in the Wild Challenge, CVPR Workshops 2024,
supplement, section 1.1. The team published neither code nor weights. The report says: based on
MWRCAN; a U-Net that halves and doubles the size by Haar wavelet transforms; eight residual blocks
per module and a residual connection in each; in the middle eight times a residual block and a
self-attention of one head; an image ``out1``, which three convolutions of at most 16 channels, in
the manner of EMVD, blend with the input by one weight per pixel.

Everything else is our choice, so the team's numbers cannot be expected of it: the widths, which a
figure gives that is not at hand (the report says 341 MB, these make 333), sums where encoder and
decoder meet, and the layers of the attention. There is no recipe: the report's surviving text has
neither the weights of the losses nor rates, and the training data came from two GANs that imitate
the degradation, whose description is cut off.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cir_arch.facts import NetworkFacts
from cir_arch.layers.argument_checks import check_channels
from cir_arch.layers.blocks import BlockChain
from cir_arch.layers.channel_attention import ChannelAttention
from cir_arch.layers.convolution import to_image, to_map
from cir_arch.layers.padding import PaddingRule, checked_size, crop_to
from cir_arch.layers.residual_conv import ResidualBranch
from cir_arch.network import RestorationNetwork, network
from cir_arch.state_dict import State, divisor, entry_count
from cir_host.errors import UserError


def haar(x: Tensor) -> Tensor:
    """Transform (B, C, H, W) to four bands (B, 4 C, H / 2, W / 2), orthonormal.

    Of a cell [[a, b], [c, d]] the bands are (a + b + c + d) / 2, (-a + b - c + d) / 2,
    (-a - b + c + d) / 2 and (a - b - c + d) / 2, each with all channels.
    """
    left, right = x[..., ::2] / 2, x[..., 1::2] / 2
    low, high = left + right, right - left
    (low_above, low_below), (high_above, high_below) = (
        (y[..., ::2, :], y[..., 1::2, :]) for y in (low, high)
    )
    bands = (
        low_above + low_below,
        high_above + high_below,
        low_below - low_above,
        high_below - high_above,
    )
    return torch.cat(bands, dim=1)


def inverse_haar(bands: Tensor) -> Tensor:
    """Undo :func:`haar`: (B, 4 C, H, W) to (B, C, 2 H, 2 W)."""
    ll, hl, lh, hh = (bands / 2).chunk(4, dim=1)
    low = torch.stack((ll - lh, ll + lh), dim=3).flatten(2, 3)
    high = torch.stack((hl - hh, hl + hh), dim=3).flatten(2, 3)
    return torch.stack((low - high, low + high), dim=4).flatten(3, 4)


class Block(ResidualBranch):
    """Two 3x3 convolutions with a ReLU between, added to the input; after them channel attention.

    ``squeezed`` are the channels in the middle of the attention; 0 leaves it out.
    """

    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__(channels, "R", use_checkpoint=False)
        self.attention = ChannelAttention(channels, squeezed) if squeezed else None

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape."""
        y = self.branch(x)
        if self.attention is not None:
            y = to_image(self.attention(to_map(y)))
        return x + y


class SelfAttention(nn.Module):
    """Each pixel attends to all pixels, by one head behind a layer norm; added to the input."""

    def __init__(self, channels: int, identity_start: bool) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.q = nn.Linear(channels, channels)
        self.k = nn.Linear(channels, channels)
        self.v = nn.Linear(channels, channels)
        self.o = nn.Linear(channels, channels)
        if identity_start:
            nn.init.zeros_(self.o.weight)
            nn.init.zeros_(self.o.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape."""
        y = self.norm(x.flatten(2).mT)
        y = self.o(F.scaled_dot_product_attention(self.q(y), self.k(y), self.v(y)))
        out: Tensor = x + y.mT.reshape(x.shape)
        return out


class ResAtt(nn.Module):
    """A residual block, then self-attention."""

    def __init__(self, channels: int, squeezed: int, identity_start: bool) -> None:
        super().__init__()
        self.res = Block(channels, squeezed)
        self.att = SelfAttention(channels, identity_start)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape."""
        out: Tensor = self.att(self.res(x))
        return out


class Down(nn.Module):
    """Residual blocks with a sum around all, then the step to the level below."""

    def __init__(self, body: BlockChain, channels: int, below: int) -> None:
        super().__init__()
        self.body = body
        self.conv = nn.Conv2d(4 * channels, below, 3, padding=1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map (B, C, H, W) to the same shape, for the decoder, and to (B, C', H / 2, W / 2)."""
        encoded = x + self.body(x)
        return encoded, self.conv(haar(encoded))


class Up(nn.Module):
    """The step from the level below, then residual blocks with a sum around all."""

    def __init__(self, body: BlockChain, channels: int, below: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(below, 4 * channels, 3, padding=1)
        self.body = body

    def forward(self, x: Tensor, encoded: Tensor) -> Tensor:
        """Map (B, C', H, W) and the encoder's (B, C, 2 H, 2 W) to the latter shape."""
        y = inverse_haar(self.conv(x)) + encoded
        out: Tensor = y + self.body(y)
        return out


@network(
    paper="MiAlgo team of the RAIM challenge, our reading: a U-Net on Haar wavelets",
    gmacs=77.7,
    small={
        "widths": (4, 6, 8, 12),
        "blocks": 1,
        "squeeze_factor": 1,
        "identity_start": False,
    },
    unused_parameters=r"middle\.\d+\.att\.k\.bias",  # adds the same to all scores of a query
)
class WaveletUNet(RestorationNetwork):
    """A U-Net on Haar wavelets whose result is blended with the image.

    Args:
        in_channels: Channels of input and output image.
        widths: Channels of the levels; each is half as large as the one before. The last is the
            middle with the self-attention.
        blocks: Residual blocks of each module.
        global_skip: Add the image to ``out1``.
        channel_attention: Residual blocks end with channel attention, as in MWRCAN.
        squeeze_factor: Channels of a residual block over those in the middle of its channel
            attention.
        identity_start: At the start, self-attention changes nothing.
        use_checkpoint: Gradient checkpointing: recompute each block in the backward pass.

    Raises:
        UserError: If an argument leaves a layer without channels, or the network without a level
            or blocks; the message names it.
    """

    def __init__(
        self,
        in_channels: int = 3,
        widths: Sequence[int] = (64, 128, 256, 512),
        blocks: int = 8,
        global_skip: bool = True,
        channel_attention: bool = False,
        squeeze_factor: int = 16,
        identity_start: bool = True,
        use_checkpoint: bool = False,
    ) -> None:
        super().__init__()
        if len(widths) < 2:
            raise UserError(
                f"widths: {list(widths)} has {len(widths)} numbers; give two or more, the last for"
                " the middle"
            )
        if blocks < 1:
            raise UserError(f"blocks: {blocks} must be 1 or more")
        check_channels(widths=min(widths))
        if channel_attention:
            check_channels(
                squeeze_factor=min(widths) // squeeze_factor if squeeze_factor > 0 else 0
            )
        self.in_channels = in_channels
        self.global_skip = global_skip
        self.padding = PaddingRule(2 ** (len(widths) - 1), "reflect")

        def squeezed(channels: int) -> int:
            return channels // squeeze_factor if channel_attention else 0

        def body(channels: int) -> BlockChain:
            modules = (Block(channels, squeezed(channels)) for _ in range(blocks))
            return BlockChain(*modules, use_checkpoint=use_checkpoint)

        steps = list(pairwise(widths))
        middle = widths[-1]
        self.head = nn.Conv2d(in_channels, widths[0], 3, padding=1)
        self.down = nn.ModuleList(
            Down(body(channels), channels, below) for channels, below in steps
        )
        pairs = (ResAtt(middle, squeezed(middle), identity_start) for _ in range(blocks))
        self.middle = BlockChain(*pairs, use_checkpoint=use_checkpoint)
        self.up = nn.ModuleList(Up(body(channels), channels, below) for channels, below in steps)
        self.tail = nn.Conv2d(widths[0], in_channels, 3, padding=1)
        self.refine = nn.Sequential(
            nn.Conv2d(2 * in_channels, 16, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(16, 16, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(16, 1, 3, padding=1),
        )

    @classmethod
    def arguments_from(cls, state: State) -> dict[str, Any] | None:
        """Read the arguments off a state dict; None if it is of another network."""
        if "middle.0.att.q.weight" not in state:
            return None
        width, in_channels = state["head.weight"].shape[:2]
        levels = range(entry_count(state, "down."))
        arguments = {
            # global_skip, identity_start and use_checkpoint change no shape
            "in_channels": in_channels,
            "widths": [width, *(len(state[f"down.{level}.conv.weight"]) for level in levels)],
            "blocks": entry_count(state, "middle."),
        }
        squeezes = [state[name].shape for name in state if name.endswith(".attention.1.weight")]
        arguments["channel_attention"] = bool(squeezes)
        if squeezes:
            arguments["squeeze_factor"] = divisor(((s[1], s[0]) for s in squeezes), 16)
        return arguments

    @property
    def facts(self) -> NetworkFacts:
        """What tools need to know about this network. Self-attention sees the whole image."""
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

        Sides that are not multiples of 2 per step between levels are padded at bottom and right by
        reflection (replication where a side is too short), and the result is cropped.

        Raises:
            UserError: If the number of channels is not the network's.
        """
        height, width = checked_size(x, self.in_channels, "in_channels")
        padded = self.padding.pad(x)
        out = self._unet(padded)
        weight = self.refine(torch.cat((padded, out), dim=1)).sigmoid()
        return crop_to((1 - weight) * padded + weight * out, height, width)

    def _unet(self, x: Tensor) -> Tensor:
        """Return ``out1`` of images whose size needs no padding."""
        y, encoded = self.head(x), []
        for level in self.down:
            skip, y = level(y)
            encoded.append(skip)
        y = y + self.middle(y)
        for level in reversed(self.up):
            y = level(y, encoded.pop())
        out: Tensor = self.tail(y)
        return out + x if self.global_skip else out
