"""The degradations of JPEGRestorationDataset: what is drawn, and what samples tell of it."""

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

from cir_data.codecs.jpeg import JPEG
from cir_host.errors import OptionsError, UserError
from cir_host.sampler import DataPlan, SampleIndex, Stage, TrainingBatches

ALL_DRAWS = {
    "quality": [{"choices": [20, 30], "weight": 3}, {"range": [50, 90], "weight": 1}],
    "subsampling": [
        {"choices": ["4:2:0"], "weight": 2},
        {"choices": ["4:4:4", "4:2:2"], "weight": 1},
    ],
    "double": {
        "probability": 0.5,
        "quality": {"range": [30, 95]},
        "subsampling": {"choices": ["4:2:0", "4:4:4"]},
        "shift": "random",
        "resize": {"range": [0.5, 1.5], "probability": 0.3},
    },
    "use_hflip": True,
    "use_rot": True,
}


def data_set(folder, phase="train", **options):
    size = {"gt_size": 24} if phase == "train" else {}
    section = {"dataroot_gt": str(folder), "quality": 30, **size, **options}
    return make("JPEGRestorationDataset", phase, **{k: v for k, v in section.items() if v != ()})


def samples_of(samples, count):
    return [samples[SampleIndex(0, 0, position)] for position in range(count)]


def test_every_draw_of_a_training_sample_is_told(tmp_path):
    image = coordinate_image(90, 120)
    save(tmp_path / "a.png", image)
    options = {**ALL_DRAWS, "double": {**ALL_DRAWS["double"], "resize": None}}
    kinds = set()
    for sample in samples_of(data_set(tmp_path, **options), 120):
        lq, gt = to_uint8(sample["lq"]), to_uint8(sample["gt"])
        rows, columns = gt[..., 0].astype(int), gt[..., 1].astype(int)
        assert np.array_equal(gt, image[rows, columns])
        whole, (top, left) = image, (0, 0)
        if sample["first_quality"] > 0:
            whole = plain_jpeg(
                whole, sample["first_quality"], subsampling=sample["first_subsampling"]
            )
            assert tuple(sample["first_block_offset"].tolist()) == first_boundary(gt)
        else:
            assert sample["first_subsampling"] == "none"
            assert sample["first_block_offset"].tolist() == [-1, -1]
            assert tuple(sample["block_offset"].tolist()) == first_boundary(gt)
        assert sample["resize"] == 1
        # the shift is what turns the one grid into the other, up to whole blocks
        options_of_shift = [(0, 0)] if sample["first_quality"] < 0 else np.ndindex(16, 16)
        found = False
        for top, left in options_of_shift:
            if rows.min() < top or columns.min() < left:
                continue
            last = plain_jpeg(
                whole[top:, left:], sample["quality"], subsampling=sample["subsampling"]
            )
            if np.array_equal(last[rows - top, columns - left], lq):
                found = True
                break
        assert found
        kinds.add((sample["first_quality"] > 0, sample["subsampling"]))
    assert kinds == {(d, s) for d in (False, True) for s in ("4:4:4", "4:2:2", "4:2:0")}


def test_shares_of_the_draws(tmp_path):
    save(tmp_path / "a.png", smooth_image(60, 60))
    samples = samples_of(data_set(tmp_path, **ALL_DRAWS), 400)
    share = lambda test: np.mean([test(sample) for sample in samples])  # noqa: E731
    double = share(lambda s: s["first_quality"] > 0)
    assert double == pytest.approx(0.5, abs=0.08)
    assert share(lambda s: s["resize"] != 1) == pytest.approx(0.15, abs=0.06)
    assert share(lambda s: s["quality"] >= 50) == pytest.approx(0.25, abs=0.08)
    assert share(lambda s: s["subsampling"] == "4:2:0") == pytest.approx(2 / 3, abs=0.08)
    assert all(30 <= s["first_quality"] <= 95 for s in samples if s["first_quality"] > 0)
    assert all(0.5 <= s["resize"] <= 1.5 for s in samples)
    assert all(
        (s["first_block_offset"][0] == -1) == (s["first_quality"] < 0 or s["resize"] != 1)
        for s in samples
    )


@pytest.mark.parametrize("workers", [1, 4])
def test_batches_with_all_draws_do_not_depend_on_the_workers(tmp_path, workers):
    samples = data_set(write_folder(tmp_path), **ALL_DRAWS)
    order = [SampleIndex(i % 3, 2, i) for i in range(16)]
    alone = list(DataLoader(samples, 4, sampler=order))
    shared = list(DataLoader(samples, 4, sampler=order, num_workers=workers))
    for first, second in zip(alone, shared, strict=True):
        assert first.keys() == second.keys()
        for key, value in first.items():
            equal = torch.equal if isinstance(value, torch.Tensor) else list.__eq__
            assert equal(value, second[key]), key
    assert alone[0]["first_quality"].dtype == torch.int64
    assert alone[0]["first_block_offset"].shape == (4, 2)
    assert alone[0]["resize"].dtype == torch.float64


def test_two_ranks_share_an_epoch_between_them(tmp_path):
    samples = data_set(write_folder(tmp_path), **ALL_DRAWS)
    alone = {i.position: samples[i] for i in epoch(samples, 1, 0)}
    for rank in (0, 1):
        for index in epoch(samples, 2, rank):
            assert torch.equal(samples[index]["lq"], alone.pop(index.position)["lq"])
    assert not alone


def epoch(samples, replicas, rank):
    size = 4 * len(samples)
    plan = DataPlan(len(samples), size, (Stage(1, size),), start_sample=3 * size)
    (batch,) = TrainingBatches(plan, 1, rank, replicas)
    return batch


def test_validation_compresses_twice_as_told(tmp_path):
    image = smooth_image(61, 83)
    save(tmp_path / "a.png", image)
    double = {"quality": 20, "subsampling": "4:4:4", "shift": [3, 5], "resize": 0.5}
    sample = data_set(tmp_path, "val", quality=60, subsampling="4:2:2", double=double)[0]
    first = plain_jpeg(image, 20, subsampling="4:4:4")
    small, clean = (
        np.array(Image.fromarray(i).resize((42, 30), Image.Resampling.BICUBIC))[3:, 5:]
        for i in (first, image)
    )
    assert np.array_equal(to_uint8(sample["lq"]), plain_jpeg(small, 60, subsampling="4:2:2"))
    assert np.array_equal(to_uint8(sample["gt"]), clean)
    facts = ("first_quality", "first_subsampling", "resize", "quality", "subsampling")
    assert [sample[key] for key in facts] == [20, "4:4:4", 0.5, 60, "4:2:2"]
    assert sample["first_block_offset"].tolist() == [-1, -1]
    shifted = data_set(tmp_path, "val", double={"quality": 20, "shift": [3, 5]})[0]
    assert shifted["first_block_offset"].tolist() == [5, 3]
    assert tuple(shifted["gt"].shape) == (3, 58, 78)


def test_image_smaller_than_its_shift_or_crop_is_extended(tmp_path):
    save(tmp_path / "a.png", smooth_image(4, 70))
    double = {"quality": 20, "shift": [15, 9], "resize": 0.3}
    assert data_set(tmp_path, "val", double=double)[0]["gt"].shape[1] >= 1
    for sample in samples_of(data_set(tmp_path, double=double), 5):
        assert sample["gt"].shape == sample["lq"].shape == (3, 24, 24)


@pytest.mark.parametrize(
    "options",
    [{}, {"subsampling": "4:2:2"}, {"subsampling": "4:4:4"}, {"color": "gray"}],
)
def test_aligned_crops_start_at_the_largest_units(tmp_path, options):
    image = coordinate_image(70, 90)
    image[..., 2] = 0
    save(tmp_path / "a.png", image if not options.get("color") else image[..., 0])
    samples = samples_of(data_set(tmp_path, align="mcu", **options), 60)
    assert all(sample["block_offset"].tolist() == [0, 0] for sample in samples)
    starts = {int(to_uint8(sample["gt"]).reshape(24, 24, -1)[0, 0, 0]) for sample in samples}
    assert starts == set(range(0, 70 - 24 + 1, 16))
    if not options.get("color"):
        starts = {int(to_uint8(sample["gt"])[0, 0, 1]) for sample in samples}
        assert starts == set(range(0, 90 - 24 + 1, 16))


TABLES = [list(range(1, 65)), list(range(64, 0, -1))]


@pytest.mark.parametrize("form", ["options", "text", "jpeg"])
def test_tables_from_options_a_text_or_a_jpeg(tmp_path, form):
    image = smooth_image(45, 51)
    save(tmp_path / "images/a.png", image)
    tables = TABLES
    if form == "text":
        tables = tmp_path / "tables.txt"
        lines = [" ".join(map(str, TABLES[t][i : i + 8])) for t in (0, 1) for i in range(0, 64, 8)]
        tables.write_text("# luma, then chroma\n" + "\n".join(lines))
    elif form == "jpeg":
        tables = save(tmp_path / "camera.jpg", image, qtables=TABLES)
    tables = tables if form == "options" else str(tables)
    sample = data_set(tmp_path / "images", "val", quality=None, tables=tables)[0]
    assert np.array_equal(to_uint8(sample["lq"]), plain_jpeg(image, None, qtables=TABLES))
    assert sample["quality"] == -1


def test_progressive_is_an_option(tmp_path):
    save(tmp_path / "a.png", smooth_image(30, 30))
    samples = data_set(tmp_path, progressive=True)
    assert samples.draw(np.random.default_rng(0)).last.codec == JPEG(progressive=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"subsampling": "4:1:1"}, r"datasets\.train\.subsampling: .*4:1:1"),
        ({"subsampling": {"choices": ["4:2:1"]}}, r"subsampling\.choices\[0\]: .*4:2:1"),
        ({"subsampling": {"range": ["4:2:0", "4:4:4"]}}, r"subsampling.*(range|choices)"),
        ({"quality": None}, r"give either quality or tables"),
        ({"tables": TABLES}, r"give either quality or tables"),
        ({"quality": None, "tables": [[1, 2]]}, r"tables\[0\]: .*length >= 64"),
        ({"double": {}}, r"datasets\.train\.double\.quality: missing"),
        ({"double": {"quality": 0}}, r"double\.quality"),
        ({"double": {"quality": 9, "shift": "some"}}, r"double\.shift"),
        ({"double": {"quality": 9, "shift": [0, 16]}}, r"double\.shift\[1\]: .*16"),
        ({"double": {"quality": 9, "probability": 1.5}}, r"double\.probability: .*1\.5"),
        ({"double": {"quality": 9, "resize": 0}}, r"double\.resize: .*0"),
        ({"double": {"quality": 9, "resize": {"range": [2, 1]}}}, r"double\.resize: .*first end"),
        ({"align": "block"}, r"datasets\.train\.align: .*block"),
        ({"phase": "val", "subsampling": {"choices": ["4:2:0"]}}, r"subsampling must be one value"),
        (
            {"phase": "val", "double": {"quality": 9, "shift": "random"}},
            r"double must not be random",
        ),
        (
            {"phase": "val", "double": {"quality": 9, "probability": 0.5}},
            r"double must not be random",
        ),
    ],
)
def test_bad_options_are_named(tmp_path, options, message):
    save(tmp_path / "a.png", smooth_image(30, 30))
    with pytest.raises(OptionsError, match=message):
        data_set(tmp_path, **options)


@pytest.mark.parametrize("content", ["1 2 3", "0 " * 64, "256 " * 64, "x " * 64])
def test_bad_file_of_tables_is_named(tmp_path, content):
    save(tmp_path / "images/a.png", smooth_image(30, 30))
    (tmp_path / "t.txt").write_text(content)
    for path, kind in ((tmp_path / "t.txt", OptionsError), (tmp_path / "none.txt", UserError)):
        with pytest.raises(kind, match=rf"datasets\.train\.tables: .*{path.name}"):
            data_set(tmp_path / "images", quality=None, tables=str(path))
