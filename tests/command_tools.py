"""Running the real command on real photographs, small."""

import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import yaml
from PIL import Image

TINY_PROMPTCIR = {
    "type": "PromptCIR",
    "dim": 8,
    "num_blocks": [1, 1, 1, 1],
    "num_refinement_blocks": 1,
    "heads": [1, 1, 1, 1],
    "window_size": 4,
    "squeeze_factor": 4,
    "prompt_bases": [4, 4, 4],
    "prompt_dims": [8, 8, 8],
}


LAUNCH = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
"""Two processes, as torchrun starts them."""


def photographs(folder, names=("astronaut", "coffee", "chelsea"), size=64):
    """Crop photographs of scikit-image's wheel into a folder of PNGs."""
    folder.mkdir(parents=True)
    source = Path(str(files("skimage.data")))
    for name in names:
        with Image.open(source / f"{name}.png") as image:
            image.crop((120, 60, 120 + size, 60 + size)).save(folder / f"{name}.png")
    return folder


def train_options(**changes):
    """Options of a training run of a few iterations; ``a__b=1`` sets ``options['a']['b']``."""
    options = {
        "name": "run",
        "model_type": "CIRModel",
        "scale": 1,
        "num_gpu": 0,
        "manual_seed": 0,
        "datasets": {
            "train": {
                "name": "photos",
                "type": "JPEGRestorationDataset",
                "dataroot_gt": "photos",
                "quality": {"range": [10, 40]},
                "gt_size": 32,
                "use_hflip": True,
                "use_rot": True,
                "num_worker_per_gpu": 1,
                "batch_size_per_gpu": 2,
                "dataset_enlarge_ratio": 4,
            },
            "val": {
                "name": "held_out",
                "type": "JPEGRestorationDataset",
                "dataroot_gt": "photos",
                "quality": 10,
            },
        },
        "network_g": dict(TINY_PROMPTCIR),
        "path": {"pretrain_network_g": None, "strict_load_g": True, "resume_state": None},
        "train": {
            "ema_decay": 0.9,
            "optim_g": {"type": "AdamW", "lr": 1e-3, "weight_decay": 0, "betas": [0.9, 0.99]},
            "scheduler": {
                "type": "CosineAnnealingRestartLR",
                "periods": [8],
                "restart_weights": [1],
                "eta_min": 1e-6,
            },
            "total_iter": 8,
            "warmup_iter": -1,
            "pixel_opt": {"type": "L1Loss", "loss_weight": 1.0, "reduction": "mean"},
        },
        "val": {
            "val_freq": 4,
            "save_img": True,
            "metrics": {
                "psnr": {"type": "calculate_psnr", "crop_border": 0},
                "psnrb": {"type": "calculate_psnrb", "crop_border": 0},
            },
        },
        "logger": {"print_freq": 2, "save_checkpoint_freq": 4, "use_tb_logger": False},
    }
    for path, value in changes.items():
        *parents, key = path.split("__")
        section = options
        for parent in parents:
            section = section[parent]
        section[key] = value
    return options


def write_options(path, options):
    path.write_text(yaml.safe_dump(options, sort_keys=False, allow_unicode=True), encoding="utf-8")
    return path.name


def basicsr(folder, *arguments, launch=()):
    """Run ``basicsr ARGUMENTS`` in a folder; ``launch`` goes between python and the module."""
    command = [sys.executable, *launch, "-m", "cir_cli", *arguments]
    return subprocess.run(
        command, cwd=folder, text=True, capture_output=True, timeout=300, check=False
    )


def one_line_error(done):
    """Assert that a command failed with a single line and no traceback, and return the line."""
    assert done.returncode == 2, done.stdout + done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if ": error: " in line]
    return line
