"""LPIPS and DISTS by torchmetrics. Nothing is downloaded: their networks must be in the cache."""

from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor

from cir_host.errors import UserError
from cir_host.registration import register

Metric: TypeAlias = Literal["lpips", "dists"]

METRICS: dict[Metric, tuple[str, str]] = {
    "lpips": ("alexnet", "alexnet-owt-7be5be79.pth"),
    "dists": ("vgg16", "vgg16-397923af.pth"),
}
"""For each metric, the network of torchvision and its file in PyTorch's cache."""


def available() -> list[Metric]:
    """Return the metrics whose package and network are available."""
    return [name for name in METRICS if lacking(name) is None]


def lacking(metric: Metric) -> str | None:
    """Return what a metric lacks and how to get it; None if it can be computed."""
    if find_spec("torchmetrics") is None:
        return "torchmetrics is not installed; `pip install 'basicsr-cir[metrics]'`"
    network, name = METRICS[metric]
    if not (_cache_folder() / name).is_file():
        return (
            f'{name} is not in {_cache_folder()}; python -c "import torchvision;'
            f" torchvision.models.{network}(weights='DEFAULT')\" downloads it"
        )
    return None


def require(metric: Metric, name: str) -> None:
    """Refuse a metric that cannot be computed.

    Args:
        metric: The metric.
        name: What computes it, for the message.

    Raises:
        UserError: torchmetrics is not installed, or the network is not in PyTorch's cache.
    """
    reason = lacking(metric)
    if reason is not None:
        raise UserError(f"{name}: {reason}")


@register("metric")
def calculate_lpips(img: Any, img2: Any, **_: Any) -> float:
    """Return LPIPS (Zhang et al., CVPR 2018) by AlexNet, version 0.1; lower is better.

    Args:
        img: 8-bit image, (H, W, BGR), or (H, W) if grey, used as three equal channels.
        img2: Ground truth in the same layout.

    Raises:
        UserError: torchmetrics is not installed, or AlexNet is not in PyTorch's cache.
    """
    return _distance("lpips", img, img2)


@register("metric")
def calculate_dists(img: Any, img2: Any, **_: Any) -> float:
    """Return DISTS (Ding et al., TPAMI 2020) by VGG16; lower is better.

    Args:
        img: 8-bit image, (H, W, BGR), or (H, W) if grey, used as three equal channels.
        img2: Ground truth in the same layout.

    Raises:
        UserError: torchmetrics is not installed, or VGG16 is not in PyTorch's cache.
    """
    return _distance("dists", img, img2)


@torch.inference_mode()
def _distance(metric: Metric, img: Any, img2: Any) -> float:
    require(metric, metric)
    return float(_network(metric)(_to_tensor(img), _to_tensor(img2)))


@cache
def _network(metric: Metric) -> Any:
    if metric == "lpips":
        from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

        return LearnedPerceptualImagePatchSimilarity(net_type="alex", normalize=True).eval()
    # torchmetrics' own metric reads the file of the network for every image
    from torchmetrics.functional.image.dists import DISTSNetwork

    return DISTSNetwork().eval()


def _to_tensor(image: Any) -> Tensor:
    pixels = np.atleast_3d(image)[..., ::-1]
    tensor = torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1)[None] / 255
    return tensor.expand(-1, 3, -1, -1)


def _cache_folder() -> Path:
    return Path(torch.hub.get_dir()) / "checkpoints"
