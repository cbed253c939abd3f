"""The option ``cache``: images decoded once, into memory that the workers share."""

import logging

import cir_model  # noqa: F401 (registers its models)

# isort: split
import numpy as np
import pytest
import torch
from data_tools import make, save, smooth_image, write_folder
from torch.utils.data import DataLoader

from cir_data.storage import decoded_images
from cir_host import rehearsal
from cir_host.errors import OptionsError, UserError
from cir_host.sampler import SampleIndex

OPTIONS = {"quality": {"range": [5, 95]}, "gt_size": 24, "use_hflip": True, "use_rot": True}


def data_set(folder, **options):
    return make("JPEGRestorationDataset", dataroot_gt=str(folder), **{**OPTIONS, **options})


def batch(samples, **loading):
    order = [SampleIndex(i % len(samples), 1, i) for i in range(8)]
    return next(iter(DataLoader(samples, 8, sampler=order, **loading)))


def same(first, second):
    return all(
        torch.equal(value, second[key]) if isinstance(value, torch.Tensor) else value == second[key]
        for key, value in first.items()
    )


@pytest.mark.parametrize(
    "loading",
    [{}, *({"num_workers": 1, "multiprocessing_context": c} for c in ("fork", "spawn"))],
)
def test_samples_are_those_of_the_files(tmp_path, monkeypatch, loading):
    monkeypatch.setattr(decoded_images, "_BLOCK_BYTES", 20_000)  # so that there are several blocks
    save(tmp_path / "grey.png", smooth_image(50, 41, channels=1))
    folder = write_folder(tmp_path)
    wanted = batch(data_set(folder))
    cached = data_set(folder, cache=True)
    for path in tmp_path.iterdir():
        path.unlink()  # what is in memory needs no file
    assert same(batch(cached, **loading), wanted)


def test_the_log_tells_the_size(tmp_path, caplog):
    sizes = [(64, 64), (100, 50)]
    with caplog.at_level(logging.INFO, "basicsr"):
        cached = data_set(write_folder(tmp_path, sizes), cache=True)
    assert cached._decoded.nbytes == 3 * (64 * 64 + 100 * 50)
    assert "T: 2 of 2 images are decoded and kept in memory: 0.00 GB" in caplog.text


def test_damaged_images_are_named_and_counted_as_without_cache(tmp_path, caplog):
    write_folder(tmp_path, sizes=[(40, 40)] * 3)
    broken = tmp_path / "1.png"
    broken.write_bytes(broken.read_bytes()[:700])
    plain = batch(data_set(tmp_path))
    with caplog.at_level(logging.INFO, "basicsr"):
        cached = data_set(tmp_path, cache=True)
        assert "2 of 3 images" in caplog.text
        assert same(batch(cached), plain)
    assert len(cached.unreadable) == 1
    with pytest.raises(UserError, match=r"1\.png: cannot be read"):
        data_set(tmp_path, cache=True, strict=True)[1]


def test_too_little_memory_is_one_line(tmp_path, monkeypatch):
    def refuse(size):
        raise RuntimeError("unable to allocate shared memory(shm)")

    folder = write_folder(tmp_path)
    monkeypatch.setattr(decoded_images, "_shared", refuse)
    with pytest.raises(UserError, match=r"^T: cache: no shared memory .* remove cache$"):
        data_set(folder, cache=True)


def test_other_data_sets_take_it(tmp_path):
    write_folder(tmp_path / "gt")
    write_folder(tmp_path / "lq")
    pair = {"dataroot_gt": str(tmp_path / "gt"), "dataroot_lq": str(tmp_path / "lq"), "gt_size": 24}
    ucsr = {
        "dataroot_gt": str(tmp_path / "gt"),
        "gt_size": 24,
        "scale": 2,
        "codec_names": ["jpeg"],
        "codecs": [{"name": "jpeg", "codec": "jpeg", "quality": 30}],
    }
    for kind, options in (("PairedJPEGDataset", pair), ("UCSRDataset", ucsr)):
        plain, cached = (make(kind, **options, cache=cache) for cache in (False, True))
        (tmp_path / "gt/0.png").rename(tmp_path / "gt/kept")
        sample = cached[0]
        (tmp_path / "gt/kept").rename(tmp_path / "gt/0.png")
        assert same(sample, plain[0])


def test_a_rehearsal_decodes_nothing_but_checks_the_value(tmp_path, monkeypatch):
    section = {"name": "T", "type": "JPEGRestorationDataset", "phase": "val", "scale": 1}
    section |= {"dataroot_gt": write_folder(tmp_path), "quality": 30}
    opt = {"num_gpu": 0, "dist": False, "manual_seed": 0}
    monkeypatch.setattr(decoded_images, "decode", None)
    rehearsal._build_dataset(opt, {**section, "cache": True}, "datasets.val")
    with pytest.raises(OptionsError, match=r"datasets\.val\.cache"):
        rehearsal._build_dataset(opt, {**section, "cache": "yes"}, "datasets.val")


def test_a_model_that_needs_floats_is_refused_before_the_run():
    sections = {"train": {"uint8": True}}
    rehearsal._check_uint8({"model_type": "CIRModel", "datasets": sections})
    with pytest.raises(OptionsError, match=r"datasets\.train\.uint8: SRModel needs floating"):
        rehearsal._check_uint8({"model_type": "SRModel", "datasets": sections})


def test_views_of_the_memory_are_the_images(tmp_path):
    image = smooth_image(31, 47)
    save(tmp_path / "a.png", image)
    cached = data_set(tmp_path, cache=True)
    assert np.array_equal(cached.clean(0), image)
    assert np.shares_memory(cached.clean(0), cached.clean(0))
    with pytest.raises(ValueError, match="read-only"):
        cached.clean(0)[0, 0] = 0
