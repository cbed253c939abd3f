import io
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from data_tools import (
    coordinate_image,
    first_boundary,
    make,
    plain_jpeg,
    save,
    smooth_image,
    to_uint8,
    write_folder,
)
from PIL import Image
from torch.utils.data import DataLoader

from cir_data.images.color import to_color
from cir_data.images.jpeg_planes import read_planes
from cir_host.errors import OptionsError, UserError
from cir_host.sampler import DataPlan, SampleIndex, Stage, TrainingBatches

TRAINING = {
    "gt_size": 24,
    "use_hflip": True,
    "use_rot": True,
    "quality": {"range": [10, 70]},
}


def training_set(folder, **options):
    return make("JPEGRestorationDataset", **{"dataroot_gt": folder, **TRAINING, **options})


def test_training_sample_is_a_crop_of_the_whole_compressed_image(tmp_path):
    data_set = training_set(write_folder(tmp_path))
    images = {
        str(tmp_path / f"{i}.png"): coordinate_image(*size)
        for i, size in enumerate([(70, 90), (64, 64), (101, 57)])
    }
    qualities, offsets = set(), set()
    for position in range(90):
        sample = data_set[SampleIndex(position % 3, 0, position)]
        lq, gt = to_uint8(sample["lq"]), to_uint8(sample["gt"])
        assert sample["lq"].dtype == sample["gt"].dtype == torch.float32
        assert lq.shape == gt.shape == (24, 24, 3)
        assert sample["lq_path"] == sample["gt_path"] == str(tmp_path / f"{position % 3}.png")
        # the coordinates in gt tell which pixels of the whole image these are
        rows, columns = gt[..., 0], gt[..., 1]
        original = images[sample["gt_path"]]
        assert np.array_equal(gt, original[rows, columns])
        assert np.array_equal(lq, plain_jpeg(original, sample["quality"])[rows, columns])
        assert tuple(sample["block_offset"].tolist()) == first_boundary(gt)
        assert (sample["subsampling"], sample["codec"]) == ("4:2:0", data_set.codec)
        qualities.add(sample["quality"])
        offsets.add(tuple(sample["block_offset"].tolist()))
    assert min(qualities) >= 10
    assert max(qualities) <= 70
    assert len(qualities) > 25
    assert len(offsets) > 30


def blockiest_phase(image, axis):
    """Where the steps between neighbouring rows or columns are largest, modulo 8."""
    steps = (np.diff(image.astype(float), axis=axis) ** 2).mean(axis=(1 - axis, 2))
    return max(range(8), key=lambda phase: steps[(phase - 1) % 8 :: 8].mean())


def test_block_offset_is_where_the_blocks_show(tmp_path):
    save(tmp_path / "a.png", smooth_image(203, 250, seed=3))
    data_set = training_set(str(tmp_path), gt_size=96, quality=8)
    for position in range(24):
        sample = data_set[SampleIndex(0, 0, position)]
        lq = to_uint8(sample["lq"])
        found = (blockiest_phase(lq, 0), blockiest_phase(lq, 1))
        assert tuple(sample["block_offset"].tolist()) == found


def test_validation_is_the_whole_image_and_the_same_each_time(tmp_path):
    image = smooth_image(45, 62)
    save(tmp_path / "sub/a.png", image)
    data_set = make("JPEGRestorationDataset", phase="val", dataroot_gt=str(tmp_path), quality=30)
    first, second = data_set[0], data_set[0]
    assert np.array_equal(to_uint8(first["gt"]), image)
    assert np.array_equal(to_uint8(first["lq"]), plain_jpeg(image, 30))
    assert torch.equal(first["lq"], second["lq"])
    assert (first["quality"], first["subsampling"]) == (30, "4:2:0")
    assert first["block_offset"].tolist() == [0, 0]
    assert first["lq_path"] == first["gt_path"] == str(tmp_path / "sub/a.png")


@pytest.mark.parametrize("color", ["rgb", "y", "gray"])
@pytest.mark.parametrize("channels", [1, 3])
def test_colour_is_taken_before_compression(tmp_path, color, channels):
    image = smooth_image(50, 70, channels)
    save(tmp_path / "a.png", image)
    common = {"dataroot_gt": str(tmp_path), "color": color, "quality": 15}
    sample = make("JPEGRestorationDataset", phase="test", **common)[0]
    expected = to_color(image, color)
    assert np.array_equal(to_uint8(sample["gt"]), expected)
    assert np.array_equal(to_uint8(sample["lq"]), plain_jpeg(expected, 15))
    assert sample["subsampling"] == ("4:2:0" if color == "rgb" else "4:0:0")
    crop = make("JPEGRestorationDataset", gt_size=32, **common)[0]
    assert crop["lq"].shape == crop["gt"].shape == (3 if color == "rgb" else 1, 32, 32)
    assert to_uint8(crop["gt"]).ravel()[0] in expected


def test_small_images_are_extended_by_reflection(tmp_path):
    image = coordinate_image(10, 40)
    save(tmp_path / "a.png", image)
    data_set = training_set(str(tmp_path), use_hflip=False, use_rot=False, gt_size=32)
    extended = np.pad(image, ((0, 22), (0, 0), (0, 0)), mode="reflect")
    sample = data_set[0]
    left = int(to_uint8(sample["gt"])[0, 0, 1])
    whole = plain_jpeg(extended, sample["quality"])
    assert np.array_equal(to_uint8(sample["gt"]), extended[:, left : left + 32])
    assert np.array_equal(to_uint8(sample["lq"]), whole[:, left : left + 32])


def test_one_pixel_image(tmp_path):
    save(tmp_path / "a.png", np.full((1, 1, 3), 77, np.uint8))
    assert training_set(str(tmp_path))[0]["gt"].unique().tolist() == [pytest.approx(77 / 255)]


# Reproducibility


def epoch_of(data_set, epoch, workers=0, context=None, replicas=1, rank=0, ratio=4):
    """The samples of an epoch by position."""
    size = len(data_set) * ratio
    plan = DataPlan(len(data_set), size, (Stage(size // 2, 2),), start_sample=epoch * size)
    sampler = TrainingBatches(plan, size // 2, rank, replicas)
    loader = DataLoader(
        data_set, batch_sampler=sampler, num_workers=workers, multiprocessing_context=context
    )
    positions = [index.position for batch in sampler for index in batch]
    batches = list(loader)
    lq = torch.cat([batch["lq"] for batch in batches])
    facts = [
        (path, quality, *offset)
        for batch in batches
        for path, quality, offset in zip(
            batch["gt_path"],
            batch["quality"].tolist(),
            batch["block_offset"].tolist(),
            strict=True,
        )
    ]
    assert len(positions) == len(lq) == len(facts)
    return {p: (lq[i], facts[i]) for i, p in enumerate(positions)}


def same(first, second):
    return torch.equal(first[0], second[0]) and first[1] == second[1]


@pytest.mark.parametrize(("workers", "context"), [(1, "fork"), (4, "fork"), (1, "spawn")])
def test_samples_do_not_depend_on_the_workers(tmp_path, workers, context):
    data_set = training_set(write_folder(tmp_path))
    alone = epoch_of(data_set, 3)
    shared = epoch_of(data_set, 3, workers, context)
    assert alone.keys() == shared.keys() == set(range(12))
    assert all(same(alone[p], shared[p]) for p in alone)


def distinct(samples):
    return len({(facts, lq.numpy().tobytes()) for lq, facts in samples}) == len(samples)


def test_every_epoch_and_repetition_is_new(tmp_path):
    # epochs differ in their order too; by position it is the random stream that is compared
    data_set = training_set(write_folder(tmp_path))
    first, second = epoch_of(data_set, 0, ratio=8), epoch_of(data_set, 1, ratio=8)
    assert distinct([*first.values(), *second.values()])
    again = epoch_of(training_set(write_folder(tmp_path)), 1, ratio=8)
    assert all(same(again[p], second[p]) for p in second)
    other_seed = training_set(write_folder(tmp_path), manual_seed=6)
    assert not any(same(s, second[p]) for p, s in epoch_of(other_seed, 1, ratio=8).items())


def test_two_ranks_share_an_epoch_between_them(tmp_path):
    data_set = training_set(write_folder(tmp_path))
    ranks = [epoch_of(data_set, 2, replicas=2, rank=rank) for rank in (0, 1)]
    assert not ranks[0].keys() & ranks[1].keys()
    both = ranks[0] | ranks[1]
    alone = epoch_of(data_set, 2)
    assert all(same(both[p], alone[p]) for p in range(12))
    assert distinct(list(both.values()))


# Damaged files


@pytest.fixture
def damaged(tmp_path):
    """Five images of which 1.png is truncated."""
    write_folder(tmp_path, sizes=[(40, 40)] * 5)
    broken = tmp_path / "1.png"
    broken.write_bytes(broken.read_bytes()[:700])
    return tmp_path


def test_damaged_image_is_replaced_named_once_and_counted(damaged, caplog):
    data_set = training_set(str(damaged))
    with caplog.at_level(logging.WARNING, "basicsr"):
        epochs = [epoch_of(data_set, epoch) for epoch in (0, 1)]
    assert all(facts[0] != str(damaged / "1.png") for e in epochs for _, facts in e.values())
    warnings = [r.getMessage() for r in caplog.records if "1.png" in r.getMessage()]
    assert len(warnings) == 1
    assert "unreadable so far: 1 of 5" in warnings[0]
    assert len(data_set.unreadable) == 1


def test_replacements_do_not_depend_on_the_workers_and_are_counted_in_all(damaged):
    data_set = training_set(str(damaged))
    alone = epoch_of(training_set(str(damaged)), 0)
    shared = epoch_of(data_set, 0, workers=2, context="fork")
    assert all(same(alone[p], shared[p]) for p in alone)
    assert len(data_set.unreadable) == 1


def test_damaged_image_stops_a_strict_training_and_every_validation(damaged):
    strict = training_set(str(damaged), strict=True)
    validation = make("JPEGRestorationDataset", phase="val", dataroot_gt=str(damaged), quality=10)
    for data_set in (strict, validation):
        assert data_set[0]["lq"].shape[0] == 3
        with pytest.raises(UserError, match=r"1\.png: cannot be read as an image"):
            data_set[1]


def test_nothing_but_damaged_images_is_an_error(tmp_path):
    (tmp_path / "a.png").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"in a row cannot be read; the last one is .*a\.png"):
        training_set(str(tmp_path))[0]


def test_an_image_that_cannot_be_read_is_replaced(tmp_path, caplog):
    data_set = training_set(write_folder(tmp_path, sizes=[(40, 40)] * 2))
    (tmp_path / "1.png").unlink()
    (tmp_path / "1.png").mkdir()
    with caplog.at_level(logging.WARNING, "basicsr"):
        assert data_set[1]["gt_path"].endswith("0.png")
    assert "1.png: Is a directory; another image takes its place" in caplog.text


def test_vanished_image_is_an_error_even_where_damaged_ones_are_replaced(tmp_path):
    data_set = training_set(write_folder(tmp_path))
    Path(tmp_path / "1.png").unlink()
    with pytest.raises(UserError, match=r"1\.png: No such file"):
        data_set[1]


# Options


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gt_size": None}, r"datasets\.train.*gt_size is missing"),
        ({"gt_size": 0}, r"datasets\.train\.gt_size"),
        ({"gt_szie": 64}, r"datasets\.train\.gt_szie: unknown key.*gt_size"),
        ({"color": "rbg"}, r"datasets\.train\.color: .*rbg"),
        ({"scale": 4}, r"datasets\.train.*scale must be 1"),
        ({"io_backend": {"type": "lmdb"}}, r"datasets\.train.*io_backend is of type lmdb"),
        ({"meta_info_file": ["a", "b"]}, r"datasets\.train.*meta_info_file must name as many"),
        ({"dataroot_gt": 3}, r"datasets\.train\.dataroot_gt"),
        ({"quality": 0}, r"datasets\.train\.quality"),
    ],
)
def test_bad_options_are_named(tmp_path, options, message):
    with pytest.raises(OptionsError, match=message):
        training_set(**{"folder": write_folder(tmp_path), **options})


def test_section_of_a_stock_options_file(tmp_path):
    loading = {
        "io_backend": {"type": "disk"},
        "num_worker_per_gpu": 2,
        "batch_size_per_gpu": 4,
        "dataset_enlarge_ratio": 100,
        "prefetch_mode": None,
        "pin_memory": True,
        "persistent_workers": True,
    }
    assert len(training_set(write_folder(tmp_path), **loading)) == 3


def test_a_crop_size_of_a_stage_is_that_of_its_samples_alone(tmp_path):
    save(tmp_path / "a.png", smooth_image(64, 64))
    data_set = training_set(str(tmp_path), gt_size=24)
    sizes = [
        data_set[SampleIndex(0, 0, i, size)]["gt"].shape[-1] for i, size in enumerate((16, None))
    ]
    assert sizes == [16, 24]


WITH_COEFFICIENTS = {
    "coefficients": True,
    "align": "mcu",
    "gt_size": 32,
    "use_hflip": False,
    "use_rot": False,
}


def test_coefficients_are_those_of_the_same_crop_of_the_whole_file(tmp_path):
    pytest.importorskip("jpeglib", reason="extra libjpeg is not installed")
    image = coordinate_image(70, 90)
    save(tmp_path / "0.png", image)
    data_set = training_set(str(tmp_path), quality={"choices": [10, 60]}, **WITH_COEFFICIENTS)
    corners = set()
    for position in range(20):
        sample = data_set[SampleIndex(0, 0, position)]
        row, column = to_uint8(sample["gt"])[0, 0, :2].tolist()
        file = io.BytesIO()
        Image.fromarray(image).save(file, "JPEG", quality=sample["quality"])
        whole = torch.from_numpy(read_planes(file.getvalue()).planes)
        expected = whole[:, row : row + 32, column : column + 32]
        assert torch.equal(sample["coefficients"], expected)
        corners.add((row, column))
    assert len(corners) > 6


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"use_hflip": True}, "coefficients: true does not go with use_hflip"),
        ({"uncompressed": 0.1}, "coefficients: true does not go with uncompressed"),
        ({"align": {"mcu": 0.5}}, "needs align: mcu and a gt_size that is a multiple of 16"),
        ({"gt_size": 40}, "needs align: mcu and a gt_size that is a multiple of 16"),
        ({"library": "libjpeg-9e"}, "needs library: pillow"),
        ({"color": "gray"}, "needs color: rgb"),
        ({"phase": "val", "quality": 10}, "coefficients is for training"),
    ],
)
def test_coefficients_that_some_crops_would_lack_are_refused(tmp_path, options, message):
    with pytest.raises(OptionsError, match=message):
        training_set(str(tmp_path), **{**WITH_COEFFICIENTS, **options})


def test_a_stage_of_other_crops_is_refused(tmp_path):
    pytest.importorskip("jpeglib", reason="extra libjpeg is not installed")
    data_set = training_set(write_folder(tmp_path), **WITH_COEFFICIENTS)
    with pytest.raises(UserError, match="edge is a multiple of 16, not 40"):
        data_set[SampleIndex(0, 0, 0, 40)]
