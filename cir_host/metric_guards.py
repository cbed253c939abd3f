"""BasicSR's metrics with finite values that can be averaged, or an error that says why not."""

import inspect
import logging
import math
from collections.abc import Callable, Mapping
from functools import cache, wraps
from typing import Any

from numpy.linalg import LinAlgError

from cir_host.errors import UndefinedMetric

IDENTICAL_PSNR = 100.0
"""PSNR in dB of equal images; with infinity, one such pair would make the mean infinite."""

_NIQE_BLOCK = 96
"""Side of NIQE's blocks. It fits a Gaussian over blocks, and one block has no covariance."""

_MINIMUM_SIDE = {
    "calculate_psnr": 1,
    "calculate_psnr_pt": 1,
    "calculate_ssim": 11,  # its Gaussian window
    "calculate_ssim_pt": 11,
    "calculate_niqe": _NIQE_BLOCK,
}

_logger = logging.getLogger("basicsr")


def guarded_registry(entries: dict[str, Any]) -> dict[str, Any]:
    """Return the entries of a metric registry, with BasicSR's own metrics guarded."""
    return {name: guarded(e) if name in _MINIMUM_SIDE else e for name, e in entries.items()}


@cache  # so that the registry and the module hold the same function
def guarded(metric: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap one of BasicSR's metrics.

    The PSNR of equal images becomes :data:`IDENTICAL_PSNR`; the first such pair is logged.

    Raises:
        UndefinedMetric: The image without its border is too small or, for NIQE, too flat.
    """
    name = metric.__name__
    signature = inspect.signature(metric)

    @wraps(metric)
    def guard(*args: Any, **kwargs: Any) -> Any:
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        _require_size(name, bound.arguments)
        try:
            value = metric(*args, **kwargs)
        except LinAlgError:
            value = math.nan
        if isinstance(value, float) and math.isnan(value):
            raise UndefinedMetric(f"{_label(name)} is undefined for this image: it is too flat")
        if isinstance(value, float) and math.isinf(value):
            _tell_of_identical_images()
            return IDENTICAL_PSNR
        return value

    return guard


def _require_size(name: str, arguments: Mapping[str, Any]) -> None:
    shape, border = arguments["img"].shape, arguments["crop_border"]
    channels_last = len(shape) == 3 and arguments.get("input_order", "CHW") == "HWC"
    height, width = shape[:2] if channels_last else shape[-2:]
    inner = (height - 2 * border, width - 2 * border)
    side = _MINIMUM_SIDE[name]
    blocks = inner[0] // _NIQE_BLOCK * (inner[1] // _NIQE_BLOCK)
    if min(inner) < side:
        need = f"at least {side}x{side} pixels"
    elif name == "calculate_niqe" and blocks < 2:
        need = f"at least two blocks of {side}x{side} pixels"
    else:
        return
    size = f"{width}x{height}" + (f" less a border of {border}" if border else "")
    raise UndefinedMetric(f"{_label(name)} needs {need}; the image has {size}")


def _label(name: str) -> str:
    return name.removeprefix("calculate_").removesuffix("_pt").upper()


@cache  # once per run
def _tell_of_identical_images() -> None:
    _logger.warning(
        "An image equals its ground truth; its infinite PSNR counts as %g dB.",
        IDENTICAL_PSNR,
    )
