"""PSNR-B: PSNR whose error includes the blocking effect of the restored image.

Source: C. Yim, A. C. Bovik, "Quality assessment of deblocked images", IEEE TIP 20(1), 2011. Several
forms are in use; this one reproduces the JPEG columns of the restoration papers: real division in
the block counts, and the blocking effect of the rounded studio-range luma of the restored image.
"""

import math
from typing import Any

import numpy as np
from basicsr.metrics.metric_util import reorder_image, to_y_channel
from numpy.typing import NDArray

from cir_host.errors import UndefinedMetric
from cir_host.metric_guards import IDENTICAL_PSNR
from cir_host.registration import register

BLOCK = 8


@register("metric")
def calculate_psnrb(
    img: NDArray[Any],
    img2: NDArray[Any],
    crop_border: int,
    input_order: str = "HWC",
    test_y_channel: bool = False,
    **_: Any,
) -> float:
    """Return the PSNR-B of a restored image in dB.

    Args:
        img: Restored image, BGR or grey, (H, W, C), (C, H, W) or (H, W), in [0, 255].
        img2: Ground truth in the same layout.
        crop_border: Pixels cropped at each edge. The block grid is that of the whole image.
        input_order: ``HWC`` or ``CHW``.
        test_y_channel: Compute the squared error on MATLAB's Y instead of all channels. The
            blocking effect is that of Y in both cases.

    Returns:
        ``10 log10(255^2 / (MSE + BEF))``; 100 for equal images without blocking, like PSNR.

    Raises:
        ValueError: The shapes differ.
        UndefinedMetric: A side of the cropped image is shorter than one block.

    Example:
        >>> import numpy as np
        >>> from cir_model import calculate_psnrb
        >>> truth = np.full((16, 16), 100, np.uint8)
        >>> noisy = truth + np.eye(16, dtype=np.uint8)
        >>> round(calculate_psnrb(noisy, truth, crop_border=0), 2)
        60.17
        >>> blocky = truth.copy()
        >>> blocky[:, 8:] += 1
        >>> round(calculate_psnrb(blocky, truth, crop_border=0), 2)
        48.71
    """
    if img.shape != img2.shape:
        raise ValueError(f"PSNR-B of images of different shapes: {img.shape} and {img2.shape}")
    restored = reorder_image(img, input_order=input_order)
    truth = reorder_image(img2, input_order=input_order)
    if crop_border:
        inner = slice(crop_border, -crop_border)
        restored, truth = restored[inner, inner], truth[inner, inner]
    if min(restored.shape[:2]) < BLOCK:
        raise UndefinedMetric(
            f"PSNR-B needs images of at least {BLOCK}x{BLOCK} pixels,"
            f" got {restored.shape[1]}x{restored.shape[0]}"
        )
    luma = to_y_channel(restored)[..., 0].astype(np.float64)
    if test_y_channel:
        error = luma - to_y_channel(truth)[..., 0]
    else:
        error = restored.astype(np.float64) - truth.astype(np.float64)
    phase = -crop_border % BLOCK or BLOCK
    total = float(np.mean(error**2)) + blocking_effect(np.rint(luma), phase)
    return 10 * math.log10(255**2 / total) if total > 0 else IDENTICAL_PSNR


def blocking_effect(luma: NDArray[np.float64], phase: int = BLOCK) -> float:
    """Return the blocking effect factor (BEF) of a luma image, in squared grey levels.

    Args:
        luma: (H, W), in [0, 255].
        phase: Row and column (1 to 8) of the first block boundary; 8 if the blocks start at the
            corner of the image.
    """
    height, width = luma.shape
    columns = np.sum(np.diff(luma, axis=1) ** 2, axis=0)  # step between columns x and x + 1
    rows = np.sum(np.diff(luma, axis=0) ** 2, axis=1)
    on_boundary = float(columns[phase - 1 :: BLOCK].sum() + rows[phase - 1 :: BLOCK].sum())
    elsewhere = float(columns.sum() + rows.sum()) - on_boundary
    pairs_on_boundary = height * (width - phase) / BLOCK + width * (height - phase) / BLOCK
    pairs_elsewhere = height * (width - 1) + width * (height - 1) - pairs_on_boundary
    if pairs_on_boundary <= 0:
        return 0.0
    excess = on_boundary / pairs_on_boundary - elsewhere / pairs_elsewhere
    return float(max(0.0, excess) * math.log2(BLOCK) / math.log2(min(height, width)))
