"""Tiny runs of BasicSR's own classes, in this process or in another one.

As a script, ``host_tools.py train|test -opt FILE ...`` is what the console script is for BasicSR's
own options files, without the parts of the command that lie above cir_host.
"""

import copy
import logging
import os
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import cir_host  # noqa: F401 (makes BasicSR importable)

# isort: split
import numpy as np
import torch
import yaml
from basicsr.test import test_pipeline as run_test
from basicsr.train import train_pipeline as run_train
from basicsr.utils.logger import initialized_logger
from basicsr.utils.registry import ARCH_REGISTRY
from PIL import Image
from torch import nn

from cir_host.errors import UserError
from cir_host.launchers import normalise_argv
from cir_host.registration import register

HERE = Path(__file__).resolve().parent

PIPELINES = {"train": run_train, "test": run_test}

SMALL_NETWORK = {
    "type": "SRVGGNetCompact",
    "num_feat": 4,
    "num_conv": 1,
    "upscale": 1,
    "act_type": "relu",
}


@register(ARCH_REGISTRY)
class TinyBatchNorm(nn.Module):
    """A network with buffers that training changes."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Conv2d(4, 3, 3, padding=1)
        )

    def forward(self, x):
        return x + self.body(x)


def write_pairs(root, train=8, val=2, size=(24, 32)):
    """Random images as ``root/{train,val}/{gt,lq}/NNN.png``."""
    generator = np.random.default_rng(0)
    for phase, number in (("train", train), ("val", val)):
        for kind in ("gt", "lq"):
            folder = Path(root) / phase / kind
            folder.mkdir(parents=True)
            for index in range(number):
                pixels = generator.integers(0, 256, (*size, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{index:03}.png")


def paired(root, section, **keys):
    folder = Path(root) / section
    return {
        "name": section,
        "type": "PairedImageDataset",
        "dataroot_gt": str(folder / "gt"),
        "dataroot_lq": str(folder / "lq"),
        "io_backend": {"type": "disk"},
        **keys,
    }


def train_options(root, name="tiny"):
    """Options of a run of 12 iterations on the images of :func:`write_pairs`: 4 batches of 2."""
    patches = {"gt_size": 16, "use_hflip": True, "use_rot": True}
    loader = {"num_worker_per_gpu": 0, "batch_size_per_gpu": 2}
    return {
        "name": name,
        "model_type": "SRModel",
        "scale": 1,
        "num_gpu": 0,
        "manual_seed": 0,
        "datasets": {
            "train": paired(root, "train", **patches, **loader),
            "val": paired(root, "val"),
        },
        "network_g": dict(SMALL_NETWORK),
        "path": {"pretrain_network_g": None, "strict_load_g": True, "resume_state": None},
        "train": {
            "ema_decay": 0.9,
            "optim_g": {"type": "Adam", "lr": 1e-3, "weight_decay": 0, "betas": [0.9, 0.99]},
            "scheduler": {
                "type": "CosineAnnealingRestartLR",
                "periods": [10**6],
                "restart_weights": [1],
                "eta_min": 1e-7,
            },
            "total_iter": 12,
            "warmup_iter": -1,
            "pixel_opt": {"type": "L1Loss", "loss_weight": 1.0, "reduction": "mean"},
        },
        "val": {
            "val_freq": 6,
            "save_img": False,
            "metrics": {"psnr": {"type": "calculate_psnr", "crop_border": 0}},
        },
        "logger": {"print_freq": 3, "save_checkpoint_freq": 4, "use_tb_logger": False},
    }


def test_options(root, checkpoint, name="tiny_test"):
    options = train_options(root, name)
    return {
        **{key: options[key] for key in ("name", "model_type", "scale", "num_gpu", "manual_seed")},
        "datasets": {"test_1": paired(root, "val")},
        "network_g": options["network_g"],
        "path": {"pretrain_network_g": str(checkpoint), "strict_load_g": True},
        "val": {"save_img": True, "suffix": None, "metrics": options["val"]["metrics"]},
    }


test_options.__test__ = False  # a builder, not a test


def write_options(folder, options):
    file = Path(folder) / f"{options['name']}.yml"
    file.write_text(yaml.safe_dump(copy.deepcopy(options), sort_keys=False), encoding="utf-8")
    return file


def run_here(monkeypatch, folder, options, *flags, command="train"):
    """Train or test in this process, with ``folder`` as the current one."""
    file = write_options(folder, options)
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", ["basicsr", "-opt", str(file), *flags])
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # more would only wait for each other in networks this small
    try:
        PIPELINES[command](str(folder))
    finally:
        torch.set_num_threads(threads)


@contextmanager
def basicsr_log():
    """The messages of BasicSR's logger, which pytest's own capture does not see."""
    logger = logging.getLogger("basicsr")
    messages: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())
    level = logger.level
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    try:
        yield messages
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


@contextmanager
def fresh_logger():
    """BasicSR's logger as a new process finds it: without handlers, not yet set up."""
    logger = logging.getLogger("basicsr")
    handlers, logger.handlers = logger.handlers, []
    initialized = dict(initialized_logger)
    initialized_logger.clear()
    try:
        yield logger
    finally:
        for handler in logger.handlers:
            handler.close()
        logger.handlers = handlers
        initialized_logger.clear()
        initialized_logger.update(initialized)


def checkpoints(folder, name="tiny"):
    """Iterations of the training states that a run has saved, in order."""
    states = (Path(folder) / "experiments" / name / "training_states").glob("*.state")
    return sorted(int(file.stem) for file in states)


def script(folder, options, *flags, command="train"):
    """Arguments that do the same in a process of their own."""
    file = write_options(folder, options)
    return [str(HERE / "host_tools.py"), command, "-opt", str(file), *flags]


def run_python(arguments, folder, timeout=90, check=True):
    """Run Python on one thread; returns the finished process with its output as text."""
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    if check:
        assert done.returncode == 0, done.stdout + done.stderr
    return done


def environment():
    paths = [str(HERE.parent), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
    }


def main():
    command, *sys.argv[1:] = normalise_argv(sys.argv[1:])
    try:
        PIPELINES[command](str(Path.cwd()))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
