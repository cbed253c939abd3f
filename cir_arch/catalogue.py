"""The networks at their published sizes: what they cost, and where their weights are found."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from cir_arch.basicsr_networks import facts_of, run


@dataclass(frozen=True)
class Weights:
    """Weights that others have published. They are theirs, under their licence."""

    link: str
    """The page that offers the file."""
    file: str
    container: str
    """What the file holds: a key of BasicSR's, or a ``state dict`` alone."""
    licence: str


@dataclass(frozen=True)
class Entry:
    """A network with the arguments of its publication."""

    type: str
    """Its name in BasicSR's registry."""
    gmacs: float
    """Multiplications of one 128 x 128 image, in units of 1e9, see :func:`count_macs`."""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    weights: tuple[Weights, ...] = ()


_APACHE = "Apache-2.0"

CATALOGUE = (
    Entry(
        "PromptCIR",
        64.85,
        weights=(
            Weights(
                "https://github.com/lbc12345/PromptCIR-NTIRE24 (README, Google Drive)",
                "model_best.pth, model_best2.pth",
                "state dict",
                _APACHE,
            ),
        ),
    ),
    Entry(
        "CaVE",
        23.01,
        weights=(
            Weights(
                "https://github.com/jp-guo/CODiff (README, Google Drive)",
                "cave.pth",
                "state dict, format before torch 1.6",
                "MIT",
            ),
        ),
    ),
    Entry(
        "UCIP",
        196.42,
        weights=(
            Weights(
                "https://github.com/lixinustc/UCIP_MLP_source_code (README, Google Drive)",
                "a .pt file",
                "state dict (read off the training code)",
                "none stated",
            ),
        ),
    ),
    Entry(
        "FBCNN",
        44.35,
        weights=(
            Weights(
                "https://github.com/jiaxi-jiang/FBCNN/releases/tag/v1.0",
                "fbcnn_color.pth, fbcnn_gray.pth, fbcnn_gray_double.pth",
                "state dict",
                _APACHE,
            ),
        ),
    ),
    Entry(
        "HAT",
        415.52,
        weights=(
            Weights(
                "https://github.com/XPixelGroup/HAT (README, Google Drive and Baidu)",
                "HAT, HAT-S and HAT-L for scale 2, 3 and 4; none for JPEG",
                "params_ema",
                _APACHE,
            ),
        ),
    ),
    Entry("HFT", 667.31),
    Entry(
        "PromptIR",
        43.18,
        weights=(
            Weights(
                "https://github.com/va1shn9v/PromptIR (README)",
                "a Lightning checkpoint; none for JPEG",
                "state_dict, names begin with net.",
                "academic, non-commercial",
            ),
        ),
    ),
    Entry(
        "SAFMN_BCIE",
        75.08,
        weights=(
            Weights(
                "https://github.com/sunny2109/SAFMN/releases/tag/v0.1.1",
                "SAFMN_BCIE.pth",
                "params",
                _APACHE,
            ),
        ),
    ),
    Entry(
        "SCUNet",
        58.0,
        weights=(
            Weights(
                "https://github.com/zdyshine/BasicSR-NTIRE2024-Compressed-Image"
                "/releases/tag/checkpoints",
                "net_g_ema_68000.pth (name inferred from the release's code)",
                "params_ema",
                _APACHE,
            ),
            Weights(
                "https://github.com/cszn/KAIR/releases/tag/v1.0",
                "scunet_color_real_psnr.pth, scunet_color_real_gan.pth (64 channels; noise)",
                "state dict",
                _APACHE,
            ),
        ),
    ),
    Entry(
        "UnifyFormer",
        42.85,
        weights=(
            Weights(
                "https://github.com/yasharora102/UnifyFormer/releases/tag/Weights",
                "model_unifyformer.pth",
                "params",
                _APACHE,
            ),
        ),
    ),
    Entry(
        "SwinIR",
        212.57,
        {
            "img_size": 126,
            "window_size": 7,
            "embed_dim": 180,
            "depths": (6,) * 6,
            "num_heads": (6,) * 6,
            "mlp_ratio": 2.0,
            "upscale": 1,
            "img_range": 255.0,
            "upsampler": "",
        },
        (
            Weights(
                "https://github.com/JingyunLiang/SwinIR/releases/tag/v0.0",
                "006_colorCAR_DFWB_s126w7_SwinIR-M_jpeg{10,20,30,40}.pth",
                "params",
                _APACHE,
            ),
        ),
    ),
    Entry(
        "RRDBNet",
        293.71,
        {"num_in_ch": 3, "num_out_ch": 3},
        (
            Weights(
                "https://github.com/xinntao/Real-ESRGAN/releases/tag/v0.1.0",
                "RealESRGAN_x4plus.pth",
                "params_ema",
                "BSD-3-Clause",
            ),
        ),
    ),
)
"""In the order of the README; the last two are BasicSR's own networks."""


def count_macs(network: nn.Module, height: int = 128, width: int = 128) -> int:
    """Count the multiplications of convolutions and matrix products for one image.

    Attention included; norms, activations and interpolation (UCIP's look-ups too) are not counted.
    What the image alone does not need, such as the prediction of the quality by CaVE, is left out.

    Args:
        network: Built under ``torch.device("meta")``, so that nothing is computed.
        height: Of the image.
        width: Of the image.
    """
    facts = facts_of(network)
    channels = 3 if facts is None else facts.in_channels
    image = torch.empty(1, channels, height, width, device="meta")
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter, torch.device("meta"):
        run(network.eval(), image)
    total: int = counter.get_total_flops()
    return total // 2
