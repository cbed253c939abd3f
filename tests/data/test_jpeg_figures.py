"""The bits that the data sets give lead to the JPEG columns that papers print."""

from pathlib import Path

import numpy as np
import pytest
from data_tools import make

DATASETS = Path(__file__).resolve().parents[2] / "datasets"


@pytest.mark.parametrize(
    ("folder", "color", "quality", "psnr", "digits"),
    [
        ("LIVE1", "rgb", 10, 25.693, 3),  # PromptCIR, Table 2: 25.69
        ("LIVE1", "rgb", 40, 30.280, 3),  # PromptCIR, Table 2: 30.28
        ("LIVE1", "y", 10, 27.77, 2),
        ("LIVE1", "gray", 10, 27.02, 2),
        ("Classic5", "gray", 10, 27.82, 2),
        ("Classic5", "y", 20, 30.12, 2),
    ],
)
def test_psnr_of_the_compressed_images(folder, color, quality, psnr, digits):
    root = DATASETS / folder
    if not root.is_dir():
        pytest.skip(f"datasets/{folder} is not there")
    data_set = make(
        "JPEGRestorationDataset", "test", dataroot_gt=str(root), color=color, quality=quality
    )
    values = []
    for index in range(len(data_set)):
        sample = data_set[index]
        error = (sample["lq"].double() - sample["gt"].double()).square().mean().item()
        values.append(-10 * np.log10(error))
    assert np.mean(values) == pytest.approx(psnr, abs=10**-digits)
