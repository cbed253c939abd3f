from pathlib import Path

import numpy as np
import pytest
from data_tools import make, save, smooth_image, to_uint8, write_folder
from host_tools import basicsr_log
from name_tools import not_utf8
from PIL import Image
from torch.utils.data import DataLoader

from cir_data.datasets.contact_sheet import describe
from cir_host.errors import OptionsError
from cir_host.sampler import DataPlan, Stage, TrainingBatches


def training_set(folder, **options):
    double = {"quality": {"range": [20, 90]}, "shift": "random"}
    section = {"name": "My set", "quality": {"range": [10, 70]}, "gt_size": 24, "double": double}
    return make("JPEGRestorationDataset", dataroot_gt=folder, **{**section, **options})


@pytest.mark.parametrize("workers", [0, 2])
def test_sheet_shows_the_first_pairs_of_training(tmp_path, monkeypatch, workers):
    monkeypatch.chdir(tmp_path)
    folder = write_folder(tmp_path / "images")
    samples = training_set(folder, debug_pairs=3, dataset_enlarge_ratio=4)
    plan = DataPlan(len(samples), 4 * len(samples), (Stage(2, 2),))
    first = [
        sample
        for batch in DataLoader(
            samples, batch_sampler=TrainingBatches(plan, 2), num_workers=workers
        )
        for sample in zip(batch["lq"], batch["gt"], strict=True)
    ]
    sheet = np.array(Image.open("pairs_My_set.png"))
    height = sheet.shape[0] // 3
    for number in range(3):
        row = sheet[number * height :]
        for image, left in zip(first[number], (4, 4 + 28), strict=True):
            assert np.array_equal(row[4:28, left : left + 24], to_uint8(image))


def test_sheet_is_written_once_and_by_rank_0_only(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sheet = tmp_path / "pairs_My_set.png"
    samples = training_set(write_folder(tmp_path / "images"), debug_pairs=1)
    assert not sheet.exists()  # building, as a rehearsal does, writes nothing
    samples[0]
    sheet.unlink()
    samples[1]
    assert not sheet.exists()
    monkeypatch.setenv("RANK", "1")
    training_set(str(tmp_path / "images"), debug_pairs=1)[0]
    assert not sheet.exists()


def test_sheet_of_other_data_sets(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "images/a.png", smooth_image(300, 80, channels=1))
    common = {"phase": "val", "dataroot_gt": "images", "debug_pairs": 9, "color": "gray"}
    make("JPEGRestorationDataset", name="whole", quality=10, **common)[0]
    assert Image.open("pairs_whole.png").height == 256 + 8
    codecs = [{"name": "jpeg", "codec": "jpeg", "quality": 10}]
    common |= {"codec_names": ["jpeg"], "codecs": codecs, "scale": 4}
    make("UCSRDataset", name="small", **common)[0]
    assert Image.open("pairs_small.png").height == 256 + 8


def test_description_names_every_draw(tmp_path):
    sample = training_set(write_folder(tmp_path))[0]
    lines = describe(sample)
    assert f"quality: {sample['quality']}" in lines
    assert f"first_block_offset: {sample['first_block_offset'].tolist()}" in lines
    assert "resize: 1.000" in lines or "resize: 1" in lines
    assert lines[:2] == ["0.png", sample["codec"]]


def test_a_sheet_of_any_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a\nb.png", "é\u0301\U0001f600.png"):
        save(tmp_path / "images" / name, smooth_image(24, 24))
    save(not_utf8(tmp_path / "images", b"caf\xe9.png"), smooth_image(24, 24))
    training_set("images", name="x" * 250, debug_pairs=9)[0]
    (sheet,) = tmp_path.glob("pairs_*.png")
    assert Image.open(sheet).height > 9 * 24


def test_a_sheet_that_cannot_be_written_ends_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    samples = training_set(write_folder(tmp_path / "images"), debug_pairs=1)
    Path("pairs_My_set.png").mkdir()
    with basicsr_log() as log:
        assert samples[0]["gt_path"].endswith("0.png")
    assert log == ["pairs_My_set.png: cannot be written (Is a directory)."]


def test_bad_number_is_named(tmp_path):
    with pytest.raises(OptionsError, match=r"datasets\.train\.debug_pairs: .*-1"):
        training_set(write_folder(tmp_path), debug_pairs=-1)
