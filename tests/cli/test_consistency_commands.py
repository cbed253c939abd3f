"""``basicsr test`` with ``val.consistency`` gives what ``basicsr restore`` gives."""

import json

import numpy as np
import pytest
import torch
from basicsr.archs import build_network
from command_tools import (
    TINY_PROMPTCIR,
    basicsr,
    one_line_error,
    photographs,
    train_options,
    write_options,
)
from PIL import Image

from cir_cli import main

pytest.importorskip("jpeglib", reason="extra libjpeg is not installed")

NAMES = ("astronaut", "chelsea", "coffee")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Originals, their JPEGs, and a network."""
    monkeypatch.chdir(tmp_path)
    photographs(tmp_path / "photos")
    (tmp_path / "jpegs").mkdir()
    for name in NAMES:
        with Image.open(f"photos/{name}.png") as image:
            image.convert("RGB").save(f"jpegs/{name}.jpg", quality=80)
    torch.manual_seed(0)
    network = build_network(dict(TINY_PROMPTCIR))
    torch.save({"params": network.state_dict()}, "tiny.pth")
    return tmp_path


def options(**data_sets):
    made = train_options(name="check", path={"pretrain_network_g": "tiny.pth"})
    made["val"] = {**made["val"], "consistency": True, "cell": 0.4, "grid": "none"}
    sets = {f"test_{name}": {"name": name, **section} for name, section in data_sets.items()}
    made["datasets"] = sets
    del made["train"], made["logger"], made["val"]["val_freq"]
    return made


def restored(out, *flags):
    command = ["restore", "jpegs", "-o", out, "-m", "tiny.pth", "--precision", "fp32"]
    assert main.main([*command, "--grid", "none", *flags]) == 0
    return [np.asarray(Image.open(f"{out}/{name}.png")) for name in NAMES]


def test_all_data_sets_with_jpegs_give_what_restore_gives(folder):
    with Image.open("jpegs/coffee.jpg") as image:
        (folder / "others").mkdir()
        image.save("others/lossless.png")
        exif = Image.Exif()
        exif[0x0112] = 3
        image.save("others/turned.jpg", quality=80, exif=exif)
    made = options(
        online={"type": "JPEGRestorationDataset", "dataroot_gt": "photos", "quality": 80},
        paired={"type": "PairedJPEGDataset", "dataroot_gt": "photos", "dataroot_lq": "jpegs"},
        unpaired={"type": "JPEGFolderDataset", "dataroot_lq": "jpegs"},
        others={"type": "JPEGFolderDataset", "dataroot_lq": "others"},
    )
    done = basicsr(folder, "test", "-opt", write_options(folder / "test.yml", made))
    assert done.returncode == 0, done.stdout + done.stderr
    held, free = restored("held", "--cell", "0.4"), restored("free", "--no-consistency")
    for name, image, without in zip(NAMES, held, free, strict=True):
        assert not np.array_equal(image, without)
        for data_set in ("online", "paired", "unpaired"):
            path = f"results/check/visualization/{data_set}/{name}_check.png"
            assert np.array_equal(np.asarray(Image.open(path)), image), path
    stored = json.loads((folder / "results/check/metrics.json").read_text(encoding="utf-8"))
    for data_set in ("online", "paired"):
        protocol = stored["data_sets"][data_set]["protocol"]
        assert protocol["held to the JPEG files"] == "cells of 0.4 steps"
    assert "2 images are not held to their files" in done.stdout + done.stderr
    assert "turned.jpg: is no JPEG, or its EXIF turns it" in done.stdout + done.stderr


def test_a_data_set_without_files_is_refused(folder):
    made = options(online={"type": "JPEGRestorationDataset", "dataroot_gt": "photos"})
    made["datasets"]["test_online"] |= {"quality": 80, "library": "libjpeg-9d"}
    done = basicsr(folder, "test", "-opt", write_options(folder / "test.yml", made))
    assert ".png comes without its JPEG file" in one_line_error(done)
