"""Tempest, our reading of the Tempest team's network of the NTIRE 2024 challenge.

Yang et al., NTIRE 2024 Challenge on Blind Enhancement of Compressed Image: Methods and Results,
CVPR Workshops 2024, section 4.10. The team published neither code nor weights. The report says
that global and local qualities are estimated and embedded at four scales of the encoder, that the
predicted quality is the mean of the four global ones, that the local embeddings attend to the
global ones, and that the decoder uses the skips and offsets made of both embeddings.

Everything else is our choice, so the team's numbers cannot be expected of it: FBCNN's U-Net
(https://arxiv.org/abs/2109.14573) and its sizes, the layers that embed, attend and make the
offsets, and the sum of skip and offset.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cir_arch.facts import NetworkFacts
from cir_arch.layers.argument_checks import check_channels
from cir_arch.layers.padding import checked_size, crop_to
from cir_arch.layers.quality_head import QualityPredictor
from cir_arch.layers.residual_conv import ResBlock
from cir_arch.layers.residual_unet import ResidualSizes, ResidualUNet, residual_sizes
from cir_arch.network import RestorationNetwork, network
from cir_arch.state_dict import State


class QualityAttention(nn.Module):
    """Updates the local embedding of one scale by the global embeddings of all scales."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(channels, channels) for _ in range(4))

    def forward(self, local: Tensor, scales: Tensor) -> Tensor:
        """Map a local embedding (B, E, H, W) to the same shape; ``scales`` is (B, 4, E).

        Every pixel attends to the scales and adds what it finds to itself.
        """
        pixels = local.flatten(2).mT
        tokens = (self.q(pixels), self.k(scales), self.v(scales))
        found = F.scaled_dot_product_attention(*(token[:, None] for token in tokens))[:, 0]
        update: Tensor = self.o(found).mT.reshape(local.shape)
        return local + update


@network(
    paper="Tempest team of the challenge, our reading",
    gmacs=35.85,
    small={"nc": (8, 8, 12, 16), "nb": 1, "embed_nc": 8, "identity_start": False},
    # The scores count if the quality is requested. A softmax is the same for any bias of the keys.
    unused_parameters=r"qf_score\..*|qf_attend\.\d\.k\.bias",
    onnx_any_size=True,
)
class Tempest(QualityPredictor, ResidualUNet, RestorationNetwork):
    """U-Net of residual blocks whose skips are shifted by what it finds about the quality.

    The quality does not enter the image as a number, so none can be given in its place. Without
    ``return_quality`` the parameters under ``qf_score`` are not used.

    Args:
        in_nc: Channels of input and output image.
        nc: Channels of the four levels.
        nb: Residual blocks of each stage.
        embed_nc: Channels of the embeddings of the quality.
        global_skip: Add the image to the output.
        quality_deep_loss: While training, return the qualities of the four scales, (B, 4), instead
            of their mean, so that the loss compares each.
        identity_start: Start with offsets of zero, as if there were none.
        use_checkpoint: Gradient checkpointing: recompute each block in the backward pass.

    Raises:
        UserError: If an argument has an impossible value; the message names it.
    """

    def __init__(
        self,
        in_nc: int = 3,
        nc: Sequence[int] = (64, 128, 256, 352),
        nb: int = 4,
        embed_nc: int = 64,
        global_skip: bool = True,
        quality_deep_loss: bool = False,
        identity_start: bool = True,
        use_checkpoint: bool = False,
    ) -> None:
        check_channels(embed_nc=embed_nc)
        sizes = ResidualSizes(in_nc, nc, nb, (2, 2, 2), "R", use_checkpoint)
        super().__init__(sizes, in_nc, ResBlock)
        self.global_skip = global_skip
        self.quality_deep_loss = quality_deep_loss

        def at_each_scale(build: Callable[[int], nn.Module]) -> nn.ModuleDict:
            """Build a module for each scale, from its channels."""
            return nn.ModuleDict({str(s): build(width) for s, width in enumerate(nc, start=1)})

        self.qf_local = at_each_scale(
            lambda width: nn.Sequential(
                nn.Conv2d(width, embed_nc, 3, padding=1),
                nn.ReLU(),
                nn.Conv2d(embed_nc, embed_nc, 1),
            )
        )
        self.qf_global = at_each_scale(
            lambda width: nn.Sequential(
                nn.Linear(width, embed_nc), nn.ReLU(), nn.Linear(embed_nc, embed_nc)
            )
        )
        self.qf_score = at_each_scale(lambda width: nn.Linear(embed_nc, 1))
        self.qf_attend = at_each_scale(lambda width: QualityAttention(embed_nc))
        self.qf_offset_global = at_each_scale(lambda width: nn.Linear(embed_nc, width))
        self.qf_offset_local = at_each_scale(lambda width: nn.Conv2d(embed_nc, width, 1))
        if identity_start:
            for layers in (self.qf_offset_global, self.qf_offset_local):
                for parameter in layers.parameters():
                    nn.init.zeros_(parameter)

    @classmethod
    def arguments_from(cls, state: State) -> dict[str, Any] | None:
        """Read the arguments off a state dict; None if it is of another network."""
        if not {"m_body_encoder.0.res.0.weight", "qf_offset_global.1.weight"} <= state.keys():
            return None
        sizes = residual_sizes(state)
        return {
            # global_skip: changes no shape. identity_start, quality_deep_loss: for training only.
            **{name: sizes[name] for name in ("in_nc", "nc", "nb")},
            "embed_nc": state["qf_offset_global.1.weight"].shape[1],
        }

    @property
    def facts(self) -> NetworkFacts:
        """What tools need to know about this network.

        The receptive field is the whole image, because the global embeddings depend on it.
        """
        return NetworkFacts(
            size_multiple=self.sizes.padding.multiple,
            min_size=1,
            scale=1,
            halo=None,
            in_channels=self.sizes.in_nc,
            precisions=frozenset({"fp32", "bf16", "fp16"}),
            padding=self.sizes.padding,
            extra_outputs=("quality",),
            channels_last=True,
        )

    def forward(self, x: Tensor, return_quality: bool = False) -> Tensor | tuple[Tensor, Tensor]:
        """Restore images (B, C, H, W), RGB in [0, 1]; same height and width, not clamped.

        Sides that are not multiples of 8 are padded at bottom and right by replication, and the
        result is cropped.

        Args:
            x: Images.
            return_quality: Return the image and the predicted quality (B, 1), 1 - QF / 100.

        Raises:
            UserError: If the number of channels is not the network's.
        """
        height, width = x.shape[-2:]
        maps = self._maps(x)
        scales = self._global_embeddings(maps)
        out = crop_to(self._decode_with_offsets(maps, scales), height, width)
        if self.global_skip:
            out = out + x
        return (out, self._quality(scales)) if return_quality else out

    def predict_quality(self, x: Tensor) -> Tensor:
        """Return the JPEG quality factor (B, 1), in 0..100, of images (B, C, H, W)."""
        return 100 * (1 - self._qualities(self._global_embeddings(self._maps(x))).mean(1, True))

    def _maps(self, x: Tensor) -> list[Tensor]:
        """Pad images and return the maps of level 1 to 4 behind their blocks."""
        checked_size(x, self.sizes.in_nc, "in_nc")
        y = self.m_head(self.sizes.padding.pad(x))
        maps = []
        for *blocks, smaller in (self.m_down1, self.m_down2, self.m_down3):
            for block in blocks:
                y = block(y)
            maps.append(y)
            y = smaller(y)
        return [*maps, self.m_body_encoder(y)]

    def _global_embeddings(self, maps: Sequence[Tensor]) -> Tensor:
        """Return the global embedding of each scale, (B, 4, E)."""
        layers = self.qf_global.values()
        pairs = zip(layers, maps, strict=True)
        return torch.stack([layer(y.mean((2, 3))) for layer, y in pairs], dim=1)

    def _qualities(self, scales: Tensor) -> Tensor:
        """Return the quality that each scale predicts, (B, 4), 1 - QF / 100."""
        pairs = zip(self.qf_score.values(), scales.unbind(1), strict=True)
        return torch.cat([layer(embedding).sigmoid() for layer, embedding in pairs], dim=1)

    def _quality(self, scales: Tensor) -> Tensor:
        """Return what the loss compares, (B, 1) or (B, 4)."""
        qualities = self._qualities(scales)
        deep = self.training and self.quality_deep_loss
        return qualities if deep else qualities.mean(1, keepdim=True)

    def _offset(self, level: int, y: Tensor, scales: Tensor) -> Tensor:
        """Return the offset of a scale, (B, C, H, W), from its map."""
        key = str(level)
        local = self.qf_attend[key](self.qf_local[key](y), scales)
        whole = self.qf_offset_global[key](scales[:, level - 1])[..., None, None]
        offset: Tensor = self.qf_offset_local[key](local) + whole
        return offset

    def _decode_with_offsets(self, maps: Sequence[Tensor], scales: Tensor) -> Tensor:
        """Make a padded image of the maps of level 1 to 4."""
        y = self.m_body_decoder(maps[3] + self._offset(4, maps[3], scales))
        for level, stage in ((3, self.m_up3), (2, self.m_up2), (1, self.m_up1)):
            larger, *blocks = stage
            skip = maps[level - 1]
            y = larger(y) + skip + self._offset(level, skip, scales)
            for block in blocks:
                y = block(y)
        out: Tensor = self.m_tail(y)
        return out
