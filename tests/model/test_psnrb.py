"""PSNR-B against a loop over pixel pairs written from the definition."""

import math

import numpy as np
import pytest
from basicsr.utils.registry import METRIC_REGISTRY

import cir_model  # noqa: F401
from cir_host.errors import UndefinedMetric
from cir_model.metrics.psnrb import calculate_psnrb


def image(height, width, seed, channels=3):
    rng = np.random.default_rng(seed)
    base = rng.integers(0, 256, (math.ceil(height / 8), math.ceil(width / 8), channels))
    blocky = np.kron(base, np.ones((8, 8, 1)))[:height, :width]
    noisy = blocky + rng.normal(0, 3, (height, width, channels))
    return np.clip(np.rint(noisy), 0, 255).astype(np.uint8)


def matlab_luma(bgr):
    b, g, r = (bgr[..., i].astype(np.float64) for i in range(3))
    return 16 + (65.481 * r + 128.553 * g + 24.966 * b) / 255


def psnrb_by_loops(restored, truth):
    """For colour BGR images without a cropped border."""
    height, width = restored.shape[:2]
    luma = np.rint(matlab_luma(restored))
    on, off = 0.0, 0.0
    for y in range(height):
        for x in range(width):
            if x + 1 < width:
                step = (luma[y, x] - luma[y, x + 1]) ** 2
                on, off = (on + step, off) if x % 8 == 7 else (on, off + step)
            if y + 1 < height:
                step = (luma[y, x] - luma[y + 1, x]) ** 2
                on, off = (on + step, off) if y % 8 == 7 else (on, off + step)
    n_hb, n_vb = height * (width / 8 - 1), width * (height / 8 - 1)
    n_hbc, n_vbc = height * (width - 1) - n_hb, width * (height - 1) - n_vb
    d_b, d_bc = on / (n_hb + n_vb), off / (n_hbc + n_vbc)
    bef = math.log2(8) / math.log2(min(height, width)) * (d_b - d_bc) if d_b > d_bc else 0.0
    mse = np.mean((restored.astype(float) - truth.astype(float)) ** 2)
    return 10 * math.log10(255**2 / (mse + bef))


@pytest.mark.parametrize(("height", "width"), [(64, 64), (32, 48), (37, 51), (16, 23)])
def test_equals_the_definition(height, width):
    restored, truth = image(height, width, 0), image(height, width, 1)
    ours = calculate_psnrb(restored, truth, crop_border=0)
    assert ours == pytest.approx(psnrb_by_loops(restored, truth), abs=1e-9)


def test_blocking_of_the_restored_image_alone_counts():
    blocky = image(64, 64, 0)
    smooth = np.full_like(blocky, 128)
    psnr = METRIC_REGISTRY.get("calculate_psnr")(smooth, blocky, crop_border=0)
    assert calculate_psnrb(smooth, blocky, crop_border=0) == pytest.approx(psnr)
    assert calculate_psnrb(blocky, smooth, crop_border=0) < psnr - 0.5


@pytest.mark.parametrize("border", [1, 4, 8, 11])
def test_cropping_keeps_the_block_grid(border):
    """Only the error shrinks with the border: the block steps inside stay block steps."""
    blocky = image(96, 96, 0)
    inner = blocky[border:-border, border:-border]
    psnr = METRIC_REGISTRY.get("calculate_psnr")(inner, inner + 0, crop_border=0)
    assert psnr == 100
    cropped = calculate_psnrb(blocky, blocky, crop_border=border)
    misaligned = calculate_psnrb(inner, inner, crop_border=0)
    assert cropped < 25
    if border % 8:
        assert misaligned > cropped + 5
    else:
        assert misaligned == pytest.approx(cropped)


def test_y_channel_takes_the_error_of_luma():
    restored = image(40, 40, 0)
    truth = np.roll(restored, 1, axis=1)
    psnr_y = METRIC_REGISTRY.get("calculate_psnr")(
        restored, truth, crop_border=0, test_y_channel=True
    )
    assert calculate_psnrb(restored, truth, crop_border=0, test_y_channel=True) < psnr_y
    flat = np.full_like(restored, 90)
    psnr_y = METRIC_REGISTRY.get("calculate_psnr")(flat, truth, crop_border=0, test_y_channel=True)
    ours = calculate_psnrb(flat, truth, crop_border=0, test_y_channel=True)
    assert ours == pytest.approx(psnr_y, abs=1e-6)


def test_a_grey_image_is_its_own_luma():
    restored, truth = image(40, 40, 0, channels=1)[..., 0], image(40, 40, 1, channels=1)[..., 0]
    as_is = calculate_psnrb(restored, truth, crop_border=0)
    assert as_is == pytest.approx(
        calculate_psnrb(restored[None], truth[None], crop_border=0, input_order="CHW")
    )
    mse = np.mean((restored.astype(float) - truth.astype(float)) ** 2)
    assert as_is < 10 * math.log10(255**2 / mse)


def test_bad_input():
    with pytest.raises(ValueError, match=r"\(8, 8, 3\) and \(8, 9, 3\)"):
        calculate_psnrb(image(8, 8, 0), image(8, 9, 0), crop_border=0)
    with pytest.raises(UndefinedMetric, match="8x8 pixels, got 9x7"):
        calculate_psnrb(image(7, 9, 0), image(7, 9, 1), crop_border=0)
