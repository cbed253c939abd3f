import numpy as np
import pytest
import torch
from basicsr.utils.matlab_functions import imresize
from data_tools import coordinate_image, make, plain_jpeg, save, smooth_image, to_uint8
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from cir_arch.ucip_arch import CODECS
from cir_data.degradations.bicubic import Reduce, reduce
from cir_data.images.geometry import Window
from cir_host.errors import OptionsError, UserError
from cir_host.sampler import SampleIndex

JPEG_ENTRY = {"name": "jpeg", "codec": "jpeg", "quality": {"choices": [10, 40]}}


def data_set(folder, phase="train", **options):
    section = {
        "dataroot_gt": str(folder),
        "scale": 4,
        "codec_names": list(CODECS),
        "codecs": [JPEG_ENTRY],
        **({"gt_size": 32} if phase == "train" else {}),
    }
    return make("UCSRDataset", phase, **{**section, **options})


# The reduction


def rounded(image):
    return np.floor(image * 255 + 0.5).clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize("factor", [2, 3, 4])
@pytest.mark.parametrize("channels", [1, 3])
def test_reduction_is_that_of_basicsr(factor, channels):
    rng = np.random.default_rng(0)
    shape = (20 * factor, 15 * factor, channels)
    image = rng.integers(0, 256, shape[: 3 if channels == 3 else 2], dtype=np.uint8)
    expected = imresize(image.astype(np.float32) / 255, 1 / factor)
    small = reduce(image, factor)
    assert small.shape == expected.shape
    # single precision decides ties either way
    ties = np.abs(expected * 255 % 1 - 0.5) < 1e-4
    assert np.array_equal(small[~ties], rounded(expected)[~ties])
    assert ties.mean() < 0.01


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_part_of_a_reduction_is_exact(data):
    factor = data.draw(st.integers(2, 4))
    height, width = data.draw(st.integers(1, 30)), data.draw(st.integers(1, 30))
    part = Window(
        top := data.draw(st.integers(0, height - 1)),
        left := data.draw(st.integers(0, width - 1)),
        data.draw(st.integers(1, height - top)),
        data.draw(st.integers(1, width - left)),
    )
    size = (height * factor, width * factor)
    image = np.random.default_rng(height).integers(0, 256, (*size, 3), dtype=np.uint8)
    step = Reduce(factor)
    needed = step.needs(part, size, grey=False)
    small = step.apply(needed.cut(image), needed, part, size)
    assert np.array_equal(small, part.cut(reduce(image, factor)))


# The data set


def test_training_sample_is_a_crop_of_the_reduced_and_compressed_image(tmp_path):
    image = coordinate_image(201, 250)
    save(tmp_path / "a.png", image)
    samples = data_set(tmp_path, use_hflip=True, use_rot=True)
    small = reduce(image[:200, :248], 4)
    qualities = set()
    for position in range(40):
        sample = samples[SampleIndex(0, 0, position)]
        lq, gt = to_uint8(sample["lq"]), to_uint8(sample["gt"])
        assert lq.shape == (8, 8, 3)
        assert gt.shape == (32, 32, 3)
        # the middle of each 4 x 4 square of gt tells the row and column of its small pixel
        rows, columns = (gt[::4, ::4, i].astype(int) // 4 for i in (0, 1))
        assert np.array_equal(lq, plain_jpeg(small, sample["quality"])[rows, columns])
        assert sample["codec_index"] == 0
        qualities.add(sample["quality"])
    assert qualities == {10, 40}


def test_validation_is_the_whole_image(tmp_path):
    image = smooth_image(61, 90)
    save(tmp_path / "a.png", image)
    entry = {**JPEG_ENTRY, "quality": 20}
    sample = data_set(tmp_path, "val", codecs=[entry])[0]
    assert np.array_equal(to_uint8(sample["gt"]), image[:60, :88])
    assert np.array_equal(to_uint8(sample["lq"]), plain_jpeg(reduce(image[:60, :88], 4), 20))


@pytest.fixture
def stored(tmp_path):
    """Three originals, and small images of hific and vtm, whose colour tells codec and quality."""
    for name, size in (("a", (64, 80)), ("sub/b", (50, 70)), ("c", (20, 90))):
        save(tmp_path / f"gt/{name}.png", smooth_image(*size))
        for codec, quality in (("hific", "low"), ("hific", "high"), ("vtm", 32), ("vtm", 47)):
            shade = {"low": 1, "high": 2}.get(quality, quality)
            small = np.full((size[0] // 4, size[1] // 4, 3), shade, np.uint8)
            save(tmp_path / f"{codec}/{quality}/{name}.webp", small, lossless=True)
    return tmp_path


def entries(folder):
    return [
        {"name": "hific", "folder": str(folder / "hific"), "qualities": ["low", "high"]},
        {"name": "vtm", "folder": str(folder / "vtm"), "qualities": [32, 47], "weight": 3},
        JPEG_ENTRY,
    ]


def test_prepared_folders_beside_a_codec(stored):
    samples = data_set(stored / "gt", codecs=entries(stored))
    found = {}
    for position in range(120):
        sample = samples[SampleIndex(position % 3, 0, position)]
        name = CODECS[sample["codec_index"]]
        shade = int(to_uint8(sample["lq"])[0, 0, 0])
        if name == "hific":
            assert (sample["quality"], shade) in ((-1, 1), (-1, 2))
            assert sample["codec"] == {1: "hific low", 2: "hific high"}[shade]
        elif name == "vtm":
            assert sample["quality"] == shade
            assert shade in (32, 47)
        else:
            assert name == "jpeg"
        found[name] = found.get(name, 0) + 1
    assert found["vtm"] / 120 == pytest.approx(0.6, abs=0.15)
    assert found["hific"] > 10
    assert found["jpeg"] > 10


def test_batches_do_not_depend_on_the_workers(stored):
    samples = data_set(stored / "gt", codecs=entries(stored))
    order = [SampleIndex(i % 3, 1, i) for i in range(12)]
    loaders = [DataLoader(samples, 3, sampler=order, num_workers=workers) for workers in (0, 1, 4)]
    alone, *others = ([*loader] for loader in loaders)
    for batches in others:
        for first, second in zip(alone, batches, strict=True):
            assert torch.equal(first["lq"], second["lq"])
            assert torch.equal(first["gt"], second["gt"])
            assert torch.equal(first["codec_index"], second["codec_index"])
            assert first["codec"] == second["codec"]
    assert alone[0]["codec_index"].dtype == torch.int64


def test_damaged_original_and_small_image_are_replaced_and_counted(stored):
    for broken in (stored / "gt/a.png", stored / "vtm/32/c.webp"):
        broken.write_bytes(broken.read_bytes()[:10])
    only_32 = [{**entries(stored)[1], "qualities": [32]}]
    samples = data_set(stored / "gt", codecs=only_32)
    paths = {samples[SampleIndex(i % 3, 0, i)]["gt_path"] for i in range(12)}
    assert paths == {str(stored / "gt/sub/b.png")}
    assert len(samples.unreadable) == 2
    strict = data_set(stored / "gt", codecs=only_32, strict=True)
    with pytest.raises(UserError, match=r"vtm/32/c\.webp: cannot be read as an image"):
        strict[1]


def test_small_image_of_another_size_or_missing_is_named(stored):
    one = entries(stored)[1:2]
    save(stored / "vtm/32/a.webp", smooth_image(9, 9))
    save(stored / "vtm/47/a.webp", smooth_image(9, 9))
    with pytest.raises(UserError, match=r"vtm/\d+/a\.webp is 9 x 9 .*a\.png gives 20 x 16"):
        data_set(stored / "gt", codecs=one)[0]
    (stored / "vtm/32/c.webp").unlink()
    with pytest.raises(UserError, match=r"without a partner: .*c\.png"):
        data_set(stored / "gt", codecs=one)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scale": 1}, r"scale must be 2 or more"),
        ({"gt_size": 30}, r"gt_size 30 must be a multiple of scale 4"),
        ({"codecs": [{**JPEG_ENTRY, "name": "jpg"}]}, r"'jpg' is not one of codec_names: jpeg, hm"),
        ({"codecs": []}, r"codecs: .*length >= 1"),
        ({"codecs": [{**JPEG_ENTRY, "quality": 0}]}, r"codecs\[0\]\.quality: 0 is not a quality"),
        ({"codecs": [{"name": "hm"}]}, r"codecs\[0\]: give either codec and quality, or folder"),
        ({"codecs": [{**JPEG_ENTRY, "folder": "x"}]}, r"codecs\[0\]: give either codec and qual"),
        ({"phase": "val"}, r"datasets\.val.*codecs must be one codec with one quality"),
    ],
)
def test_bad_options_are_named(tmp_path, options, message):
    save(tmp_path / "a.png", smooth_image(40, 40))
    with pytest.raises(OptionsError, match=message):
        data_set(tmp_path, **options)
