"""FBCNN, flexible blind restoration of JPEG images with an adjustable quality factor.

Jiang et al., Towards Flexible Blind JPEG Artifacts Removal, ICCV 2021,
https://arxiv.org/abs/2109.14573. The authors' release (Apache-2.0) is
https://github.com/jiaxi-jiang/FBCNN; its checkpoints load here unchanged. With ``act_mode="BR"``
and no loss on the quality it is the FlyingBunny team's network (Yang et al., NTIRE 2024 Challenge
on Blind Enhancement of Compressed Image: Methods and Results, CVPR Workshops 2024).

Computes the same function as the release. Differences:

- The image is returned alone unless the quality is requested. The release always returns both.
- The quality is not predicted where it is given and not requested.
- Blocks without batch norm are the default, as in the published checkpoints: the authors trained
  with batch norm and merged it into the convolutions afterwards.
- The widths of the quality head and the embedding are arguments. The release fixes them at 512.
"""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from cir_arch.facts import NetworkFacts
from cir_arch.layers.padding import crop_to
from cir_arch.layers.quality_head import QualityHead, QualityPredictor
from cir_arch.layers.quality_modulation import (
    QFAttention,
    given_or_predicted,
    quality_embedding,
    scale_by_quality,
    shift_by_quality,
    start_quality_layers,
)
from cir_arch.layers.residual_conv import ResidualBranch
from cir_arch.layers.residual_unet import ResidualSizes, ResidualUNet, residual_arguments
from cir_arch.network import RestorationNetwork, Weights, network
from cir_arch.state_dict import State
from cir_host.errors import UserError


@network(
    paper="[Jiang et al., ICCV 2021](https://arxiv.org/abs/2109.14573)",
    gmacs=44.35,
    small={"nc": (8, 8, 12, 16), "nb": 1, "quality_nc": 16},
    weights=(
        Weights(
            "https://github.com/jiaxi-jiang/FBCNN/releases/tag/v1.0",
            "fbcnn_color.pth, fbcnn_gray.pth, fbcnn_gray_double.pth",
            "state dict",
            "Apache-2.0",
            "JPEG of any quality: colour, grey, grey that was compressed twice",
        ),
    ),
    in_spandrel=True,
    onnx_any_size=True,
)
class FBCNN(QualityPredictor, ResidualUNet, RestorationNetwork):
    """U-Net of residual blocks that predicts the image's quality and restores accordingly.

    The defaults give the published colour network, ``in_nc=1`` gives the grey one.

    Args:
        in_nc: Channels of the input image.
        out_nc: Channels of the output image; None for ``in_nc``.
        nc: Channels of the four levels.
        nb: Residual blocks of each stage.
        act_mode: ``R``, or ``BR`` for blocks with batch norm.
        strides: Size of each level's predecessor over the level's size.
        quality_nc: Hidden channels of the quality head, and channels of the quality's embedding.
        use_checkpoint: Gradient checkpointing: recompute each block in the backward pass.
        identity_start: Start as the identity: the untrained network returns its input.

    Raises:
        UserError: If an argument has the wrong length or an unknown value; the message names it.
    """

    def __init__(
        self,
        in_nc: int = 3,
        out_nc: int | None = None,
        nc: Sequence[int] = (64, 128, 256, 512),
        nb: int = 4,
        act_mode: Literal["R", "BR"] = "R",
        strides: Sequence[int] = (2, 2, 2),
        quality_nc: int = 512,
        use_checkpoint: bool = False,
        identity_start: bool = False,
    ) -> None:
        sizes = ResidualSizes(in_nc, nc, nb, strides, act_mode, use_checkpoint)
        super().__init__(sizes, out_nc or in_nc, QFAttention)
        self.qf_pred = QualityHead(nc[3], quality_nc, nb, act_mode, use_checkpoint)
        self.qf_embed = quality_embedding(quality_nc)
        for level in (3, 2, 1):
            channels = nc[level - 1]
            self.add_module(f"to_gamma_{level}", scale_by_quality(quality_nc, channels))
            self.add_module(f"to_beta_{level}", shift_by_quality(quality_nc, channels))
        if identity_start:
            self._start_as_identity()

    @classmethod
    def arguments_from(cls, state: State) -> dict[str, Any] | None:
        """Read the arguments off a state dict; None if it is of another network."""
        if not {"m_body_encoder.0.res.0.weight", "qf_embed.0.weight"} <= state.keys():
            return None
        return residual_arguments(state)

    @property
    def facts(self) -> NetworkFacts:
        """What tools need to know about this network.

        The receptive field is the whole image, because the predicted quality depends on it.
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
            extra_inputs=("quality",),
            channels_last=True,
        )

    def forward(
        self, x: Tensor, quality: float | Tensor | None = None, return_quality: bool = False
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Restore images (B, C, H, W), RGB in [0, 1]; same height and width, not clamped.

        Sides that are not multiples of 8 (the product of ``strides``) are padded at bottom and
        right by replication, and the result is cropped.

        Args:
            x: Images.
            quality: 1 - QF / 100 in [0, 1], used instead of the prediction: one number for all
                images, or (B, 1) or (1, 1). Higher values restore more strongly. None: predict it.
            return_quality: Return the image and the predicted quality (B, 1), even if another
                quality was given. NaN in a given tensor is then replaced by the prediction.

        Raises:
            UserError: If ``quality`` is a number outside [0, 1] or a tensor of another shape, or
                the number of channels is not the network's.
        """
        height, width = x.shape[-2:]
        features = self.encode(x)
        strength, predicted = given_or_predicted(
            quality, lambda: self.qf_pred(features[-1]), x, return_quality
        )
        out = crop_to(self.decode(features, self._modulations(strength)), height, width)
        if predicted is None or not return_quality:
            return out
        return out, predicted

    @torch.no_grad()
    def _start_as_identity(self) -> None:
        """Let the first channels of level 1 carry the image from the head to the tail.

        Nothing else reaches these channels, and the tail ignores all others until it learns. The
        last layers of all branches start small, so that training begins near the identity.

        Raises:
            UserError: Input and output differ in channels, or level 1 has no channel to spare.
        """
        count = self.sizes.in_nc
        if self.m_tail.out_channels != count or self.sizes.nc[0] <= count:
            raise UserError(
                "identity_start: needs as many channels in the output as in the input, and more in"
                f" level 1, not {count}, {self.m_tail.out_channels} and {self.sizes.nc[0]}"
            )
        found = dict(self.named_parameters())

        def shrink(layer: str) -> None:
            found[f"{layer}.weight"].mul_(0.1)
            found[f"{layer}.bias"].zero_()

        for name, module in self.named_modules():
            if isinstance(module, ResidualBranch):
                last = f"{name}.res.{len(module.res) - 1}"
                shrink(last)
                if name.startswith(("m_down1.", "m_up1.")):  # the blocks of level 1
                    found[f"{last}.weight"][:count] = 0
        for level in (1, 2, 3):
            found[f"to_beta_{level}.0.bias"].zero_()
        readers = (getattr(self, f"to_{what}_{n}") for n in (1, 2, 3) for what in ("gamma", "beta"))
        start_quality_layers(self.qf_embed, readers)
        for name in ("m_head.weight", "m_head.bias", "m_up1.0.bias"):
            found[name][:count] = 0
        # the second axis of a transposed convolution's weight is that of its output
        found["m_up1.0.weight"][:, :count] = 0
        found["m_tail.weight"].zero_()
        found["m_tail.bias"].zero_()
        for channel in range(count):
            for name in ("m_head.weight", "m_tail.weight"):
                found[name][channel, channel, 1, 1] = 1

    def _modulations(self, quality: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Return gamma and beta, (B, C, 1, 1), for level 3, 2 and 1."""
        embedding = self.qf_embed(quality)

        def of(layer: str) -> Tensor:
            out: Tensor = self.get_submodule(layer)(embedding)
            return out[..., None, None]

        return [(of(f"to_gamma_{level}"), of(f"to_beta_{level}")) for level in (3, 2, 1)]
