"""The JPEG columns that the papers print, through the command and the shipped options files."""

import json
from pathlib import Path

import pytest
from command_tools import basicsr

DATASETS = Path(__file__).resolve().parents[2] / "datasets"

# PSNR / SSIM / PSNR-B, measured with Pillow 13 and libjpeg-turbo; the PromptCIR paper prints the
# colour rows of LIVE1 (Table 2), the grey-image literature the others
FIGURES = {
    "test_live1_jpeg.yml": {
        "LIVE1_q10": (25.693, 0.7433, 24.201),
        "LIVE1_q20": (28.061, 0.8256, 26.488),
        "LIVE1_q30": (29.366, 0.8615, 27.838),
        "LIVE1_q40": (30.280, 0.8821, 28.832),
    },
    "test_live1_y_jpeg.yml": {
        "LIVE1_Y_q10": (27.77, 0.7730, 25.33),
        "LIVE1_Y_q20": (30.07, 0.8512, 27.57),
        "LIVE1_Y_q30": (31.41, 0.8851, 28.92),
        "LIVE1_Y_q40": (32.35, 0.9041, 29.96),
    },
    "test_classic5_jpeg.yml": {
        "Classic5_q10": (27.82, 0.7595, 25.21),
        "Classic5_q20": (30.12, 0.8344, 27.50),
        "Classic5_q30": (31.48, 0.8666, 28.94),
        "Classic5_q40": (32.43, 0.8849, 29.92),
    },
}
IMAGES = {"LIVE1": 29, "Classic5": 5}


@pytest.mark.parametrize("options", FIGURES)
def test_jpeg_column(options, tmp_path):
    folder = "Classic5" if "classic5" in options else "LIVE1"
    if not (DATASETS / folder).is_dir():
        pytest.skip(f"datasets/{folder} is not there")
    (tmp_path / "datasets").symlink_to(DATASETS, target_is_directory=True)
    done = basicsr(tmp_path, "test", "-opt", options)
    assert done.returncode == 0, done.stdout + done.stderr
    results = tmp_path / "results" / Path(options).stem
    stored = json.loads((results / "metrics.json").read_text(encoding="utf-8"))["data_sets"]
    assert set(stored) == set(FIGURES[options])
    for name, expected in FIGURES[options].items():
        assert len(stored[name]["images"]) == IMAGES[folder]
        printed = 3 if folder == "LIVE1" and "_Y" not in name else 2
        # 0.001 dB and 0.0001 where the figure has the digits, else half a unit of its last one
        decibel = {3: 0.001, 2: 0.0055}[printed]
        for metric, value, tolerance in zip(
            ("psnr", "ssim", "psnrb"), expected, (decibel, 0.0001, decibel), strict=True
        ):
            mean = stored[name]["mean"][metric]
            assert mean["input"] == pytest.approx(value, abs=tolerance), (name, metric)
            assert mean["output"] == mean["input"]
            assert mean["gain"] == 0
