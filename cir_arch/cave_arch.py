"""CaVE, the compression-aware visual embedder of CODiff, as a restoration network.

Guo et al., Compression-Aware One-Step Diffusion Model for JPEG Artifact Removal, ICCV 2025,
https://arxiv.org/abs/2502.09873, stage 1. The authors' release (MIT) is
https://github.com/jp-guo/CODiff; its checkpoints load here unchanged.

Computes the same function as the release. Differences:

- The published widths are the default. The release's default is twice as wide.
- The image is returned alone, and no quality is predicted, unless the quality is requested.
- Any image size from 1 x 1 on works, for image, quality and embedding: sides are padded to
  multiples of 32, the network's total stride. The release pads to multiples of 8 and fails at most
  sizes; its embedding and quality ignore what lies beyond the last multiple of 32.
- The encoder can be built and loaded alone, or with the head that predicts the quality.
"""

import re
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

from torch import Tensor, nn

from cir_arch.facts import NetworkFacts
from cir_arch.layers.dct import start_with_dct
from cir_arch.layers.padding import checked_size, crop_to
from cir_arch.layers.quality_head import QualityHead, QualityPredictor
from cir_arch.layers.residual_conv import ResBlock
from cir_arch.layers.residual_unet import (
    ResidualEncoder,
    ResidualSizes,
    ResidualUNet,
    residual_arguments,
)
from cir_arch.network import RestorationNetwork, Weights, network
from cir_arch.state_dict import State, drop_entries

DECODER = ("m_body_decoder.", "m_up3.", "m_up2.", "m_up1.", "m_tail.")
"""Prefixes of the keys of the decoder, which makes the image."""
HEAD = ("qf_pred.",)
"""Prefix of the keys of the head that predicts the quality."""

_ENCODER_AND_HEAD = {"m_body_encoder.0.res.0.weight", "qf_pred.0.res.0.weight"}


class ShiftedResBlock(ResBlock):
    """Residual block that adds one to every element.

    FBCNN scales and shifts such a block by the quality; here scale and shift are fixed at 1.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape."""
        return super().forward(x) + 1.0


class _Embedder(ResidualEncoder):
    """Base of the networks that describe how an image was compressed."""

    def embed(self, x: Tensor) -> Tensor:
        """Describe the compression of images (B, C, H, W) by tokens (B, K, ``nc[3]``).

        One token for each pixel of the lowest level, row by row, by default one for 32 x 32 pixels
        of the padded image: the visual embedding of CODiff, section 3.2.
        """
        return self._tokens(self.encode(x))

    def embed_unpadded(self, x: Tensor) -> Tensor:
        """Describe images (B, C, H, W) as the release does, by tokens (B, K, ``nc[3]``).

        Nothing is padded, so K is floor(H / 32) * floor(W / 32) by default.
        """
        return self._tokens(self.encode_unpadded(x))

    @staticmethod
    def _tokens(features: tuple[Tensor, ...]) -> Tensor:
        return features[-1].flatten(2).transpose(1, 2)


@network(
    paper="[Guo et al., ICCV 2025](https://arxiv.org/abs/2502.09873), compression-aware embedder of"
    " CODiff",
    gmacs=23.01,
    small={"nc": (8, 8, 12, 16), "nb": 1, "quality_nc": 16},
    weights=(
        Weights(
            "https://github.com/jp-guo/CODiff (README, Google Drive)",
            "cave.pth",
            "state dict, format before torch 1.6",
            "MIT",
            "colour JPEG of quality 8 to 95",
        ),
    ),
    unused_parameters=r"qf_pred\..*",  # unless the quality is requested
    onnx_any_size=True,
)
class CaVE(_Embedder, QualityPredictor, ResidualUNet, RestorationNetwork):
    """U-Net of residual blocks whose lowest level also describes how the image was compressed.

    The defaults give the published network. Without ``return_quality`` the parameters under
    ``qf_pred`` are not used.

    Args:
        in_nc: Channels of the input image.
        out_nc: Channels of the output image; None for ``in_nc``.
        nc: Channels of the four levels, the last those of the embedding.
        nb: Residual blocks of each stage.
        act_mode: ``BR`` for blocks with batch norm, or ``R``.
        strides: Size of each level's predecessor over the level's size.
        quality_nc: Hidden channels of the quality head.
        use_checkpoint: Gradient checkpointing: recompute each block in the backward pass.

    Raises:
        UserError: If an argument has the wrong length or an unknown value; the message names it.
    """

    def __init__(
        self,
        in_nc: int = 3,
        out_nc: int | None = None,
        nc: Sequence[int] = (64, 128, 256, 512),
        nb: int = 4,
        act_mode: Literal["R", "BR"] = "BR",
        strides: Sequence[int] = (2, 4, 4),
        quality_nc: int = 512,
        use_checkpoint: bool = False,
    ) -> None:
        sizes = ResidualSizes(in_nc, nc, nb, strides, act_mode, use_checkpoint)
        super().__init__(sizes, out_nc or in_nc, ShiftedResBlock)
        self.qf_pred = QualityHead(nc[3], quality_nc, nb, act_mode, use_checkpoint)

    @classmethod
    def arguments_from(cls, state: State) -> dict[str, Any] | None:
        """Read the arguments off a state dict; None if it is of another network."""
        # FBCNN has the same keys and, in addition, an embedding of the quality.
        if not state.keys() >= _ENCODER_AND_HEAD or "m_tail.weight" not in state:
            return None
        return None if "qf_embed.0.weight" in state else residual_arguments(state)

    @property
    def facts(self) -> NetworkFacts:
        """What tools need to know about this network.

        The halo is that of the image. The quality depends on the whole image.
        """
        return NetworkFacts(
            size_multiple=self.sizes.padding.multiple,
            min_size=1,
            scale=1,
            halo=self.sizes.halo,
            in_channels=self.sizes.in_nc,
            precisions=frozenset({"fp32", "bf16", "fp16"}),
            padding=self.sizes.padding,
            extra_outputs=("quality",),
        )

    def forward(self, x: Tensor, return_quality: bool = False) -> Tensor | tuple[Tensor, Tensor]:
        """Restore images (B, C, H, W), RGB in [0, 1]; same height and width, not clamped.

        Sides that are not multiples of 32 (the product of ``strides``) are padded at bottom and
        right by replication, for all outputs, and the image is cropped.

        Args:
            x: Images.
            return_quality: Return the image and the predicted quality (B, 1), 1 - QF / 100.

        Raises:
            UserError: If the number of channels is not the network's.
        """
        height, width = x.shape[-2:]
        features = self.encode(x)
        out = crop_to(self.decode(features), height, width)
        return (out, self.qf_pred(features[-1])) if return_quality else out


class _PartOfCaVE(_Embedder):
    """Base of the parts of CaVE. Each loads checkpoints of the whole network as well as its own."""

    left_out: ClassVar[tuple[str, ...]]
    """Prefixes of the keys that the part does not need."""

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        """Drop the keys that are not needed, so that strict loading accepts the rest."""
        drop_entries(state_dict, prefix, "|".join(map(re.escape, self.left_out)))
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


class CaVEEncoder(_PartOfCaVE):
    """The part of :class:`CaVE` that makes the embedding.

    Arguments and errors are those of :class:`CaVE`.
    """

    left_out = DECODER + HEAD

    def __init__(
        self,
        in_nc: int = 3,
        nc: Sequence[int] = (64, 128, 256, 512),
        nb: int = 4,
        act_mode: Literal["R", "BR"] = "BR",
        strides: Sequence[int] = (2, 4, 4),
        use_checkpoint: bool = False,
    ) -> None:
        super().__init__(ResidualSizes(in_nc, nc, nb, strides, act_mode, use_checkpoint))

    def forward(self, x: Tensor) -> Tensor:
        """Return the embedding (B, K, ``nc[3]``) of images (B, C, H, W)."""
        return self.embed(x)


@network(
    paper="encoder and quality head of CaVE, returns the image",
    gmacs=0,
    small={"nc": (8, 8, 12, 16), "nb": 1, "quality_nc": 16},
)
class CaVEQuality(_PartOfCaVE, QualityPredictor, RestorationNetwork):
    """The part of :class:`CaVE` that predicts the quality; returns the image as it is.

    It is trained by explicit learning (CODiff, section 3.2) alone, without the cost of a decoder.
    Arguments and errors are those of :class:`CaVE`, and:

    Args:
        start: The initial weights. ``dct`` takes :func:`cir_arch.layers.dct.start_with_dct`, with
            which a small size learns at once; from random weights it had not begun to learn after
            600 steps.
    """

    left_out = DECODER

    def __init__(
        self,
        in_nc: int = 3,
        nc: Sequence[int] = (64, 128, 256, 512),
        nb: int = 4,
        act_mode: Literal["R", "BR"] = "BR",
        strides: Sequence[int] = (2, 4, 4),
        quality_nc: int = 512,
        use_checkpoint: bool = False,
        start: Literal["random", "dct"] = "random",
    ) -> None:
        super().__init__(ResidualSizes(in_nc, nc, nb, strides, act_mode, use_checkpoint))
        self.qf_pred = QualityHead(nc[3], quality_nc, nb, act_mode, use_checkpoint)
        if start == "dct":
            start_with_dct(self)
            first_block: Any = self.qf_pred[0]
            nn.init.zeros_(first_block.res[-1].weight)

    @classmethod
    def arguments_from(cls, state: State) -> dict[str, Any] | None:
        """Read the arguments off a state dict; None if it is of another network."""
        # start: changes initial weights only.
        if not state.keys() >= _ENCODER_AND_HEAD or "m_tail.weight" in state:
            return None
        arguments = residual_arguments(state)
        del arguments["out_nc"]
        return arguments

    @property
    def facts(self) -> NetworkFacts:
        """What tools need to know about this network."""
        return NetworkFacts(
            size_multiple=1,
            min_size=1,
            scale=1,
            halo=0,
            in_channels=self.sizes.in_nc,
            precisions=frozenset({"fp32", "bf16", "fp16"}),
            extra_outputs=("quality",),
        )

    def forward(self, x: Tensor, return_quality: bool = False) -> Tensor | tuple[Tensor, Tensor]:
        """Return images (B, C, H, W), RGB in [0, 1], as they are.

        Args:
            x: Images.
            return_quality: Return the image and the predicted quality (B, 1), 1 - QF / 100.

        Raises:
            UserError: If the number of channels is not the network's.
        """
        checked_size(x, self.sizes.in_nc, "in_nc")
        return (x, self.qf_pred(self.encode(x)[-1])) if return_quality else x
