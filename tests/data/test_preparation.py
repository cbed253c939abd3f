import io
import json
import os
import signal
import subprocess
import sys
import time
import unicodedata
from pathlib import Path

import lmdb
import numpy as np
import pytest
import torch
from basicsr.data import build_dataset
from data_tools import coordinate_image, encoded, make, save, smooth_image
from hypothesis import given
from hypothesis import strategies as st
from name_tools import different_paths, not_utf8

from cir_cli import prepare
from cir_cli.main import main
from cir_data.images.decoding import decode
from cir_data.images.errors import UnreadableImage
from cir_data.images.jpeg_facts import equivalent_quality_of_file
from cir_data.images.raw_pixels import pack
from cir_data.prepare.keys import keys_of
from cir_data.prepare.known_datasets import KNOWN_DATASETS
from cir_data.prepare.one_image import Settings
from cir_data.prepare.preparation import Preparation
from cir_data.prepare.sub_images import sub_windows
from cir_data.prepare.workers import ordered_map
from cir_data.storage.dataroots import open_images
from cir_data.storage.folder_source import FolderSource
from cir_data.storage.image_source import ImageSource, StoredImage
from cir_data.storage.writers import LmdbWriter
from cir_host.errors import UserError
from cir_host.sampler import SampleIndex

SIZES = {"a.png": (70, 90), "sub/a.png": (64, 64), "sub/b.webp": (101, 57), "z.png": (33, 40)}


@pytest.fixture
def folder(tmp_path):
    """Colour images of which two have one name, and a grey one."""
    root = tmp_path / "images"
    for name, size in SIZES.items():
        options = {"lossless": True} if name.endswith("webp") else {}
        save(root / name, coordinate_image(*size), **options)
    save(root / "grey.png", smooth_image(50, 60, channels=1))
    return root


PLAIN = Settings()


def prepared(folder, output, settings=PLAIN, workers=1, **options):
    (images,) = open_images("input", str(folder))
    preparation = Preparation(images, keys_of(images), output, settings, **options)
    return preparation.run(workers)


def stored(root):
    (images,) = open_images("key", str(root))
    return {image.stem: decode(image.read(), image.path) for image in images}


def stem(name):
    return name.rpartition(".")[0]


# What is stored


@pytest.mark.parametrize(
    ("output", "store"), [("x.lmdb", "png"), ("x.lmdb", "raw"), ("deep/er/x", "png")]
)
def test_stored_images_are_those_of_the_folder(folder, tmp_path, output, store):
    report = prepared(folder, tmp_path / output, Settings(store=store))
    assert (report.images, report.entries) == (5, 5)
    images, expected = stored(tmp_path / output), stored(folder)
    assert images.keys() == expected.keys()
    assert all(np.array_equal(images[key], expected[key]) for key in images)
    assert {path.name for path in (tmp_path / output).parent.iterdir()}.isdisjoint({"x.partial"})


@pytest.mark.parametrize("store", ["png", "raw"])
def test_samples_from_an_lmdb_are_those_from_the_folder(folder, tmp_path, store):
    prepared(folder, tmp_path / "x.lmdb", Settings(store=store))
    options = {"gt_size": 48, "quality": {"range": [10, 70]}, "use_hflip": True, "use_rot": True}
    of_folder, of_lmdb = (
        make("JPEGRestorationDataset", dataroot_gt=str(root), **options)
        for root in (folder, tmp_path / "x.lmdb")
    )
    assert len(of_folder) == len(of_lmdb) == 5
    for position in range(30):
        index = SampleIndex(position % 5, 0, position)
        wanted, found = of_folder[index], of_lmdb[index]
        assert stem(wanted["gt_path"]).endswith(stem(Path(found["gt_path"]).name))
        for key in ("lq", "gt", "block_offset"):
            assert torch.equal(wanted[key], found[key])
        assert wanted["quality"] == found["quality"]


def test_basicsr_reads_it(folder, tmp_path):
    """Names with dots and letters beyond ASCII, too, which its own LMDBs cannot have."""
    save(folder / "v1.5 é.png", coordinate_image(64, 80))
    for name in ("x.lmdb", "lq.lmdb"):  # py-lmdb opens each only once in a process
        prepared(folder, tmp_path / name, Settings(size=32, step=16))
    section = {
        "name": "T",
        "type": "PairedImageDataset",
        "phase": "test",
        "scale": 1,
        "dataroot_gt": str(tmp_path / "x.lmdb"),
        "dataroot_lq": str(tmp_path / "lq.lmdb"),
        "io_backend": {"type": "lmdb"},
    }
    data_set = build_dataset(section)
    samples = [data_set[i] for i in range(len(data_set))]
    data_set.file_client.client._client.clear()
    images = stored(tmp_path / "x.lmdb")
    assert len(samples) == len(images) > 30
    assert "v1%2E5 %C3%A9_s001" in images
    for sample in samples:
        found = (sample["gt"] * 255).round().byte().numpy().transpose(1, 2, 0)
        image = images[sample["gt_path"]]
        assert np.array_equal(found, image if image.ndim == 3 else image[..., None].repeat(3, 2))


def test_raw_crops_are_views(folder, tmp_path):
    prepared(folder, tmp_path / "x.lmdb", Settings(store="raw"))
    (images,) = open_images("key", str(tmp_path / "x.lmdb"))
    data = images[0].read()
    pixels = decode(data, "x")
    assert np.shares_memory(pixels, np.frombuffer(data, np.uint8))
    assert not pixels.flags.writeable


def test_damaged_raw_pixels_are_named():
    entry = pack(coordinate_image(9, 7))
    for damaged in (entry[:20], entry[:-1], entry + b"x", entry[:8] + bytes(24) + entry[32:]):
        with pytest.raises(UnreadableImage, match=r"^a/b: .*raw pixels"):
            decode(damaged, "a/b")


# Sub-images


def test_sub_images_of_a_known_case():
    """DIV2K's usual 2040 x 1356: seven columns and a flush one, four rows and a flush one."""
    windows = sub_windows(1356, 2040, 480, 240, 0)
    assert sorted({w.left for w in windows}) == [0, 240, 480, 720, 960, 1200, 1440, 1560]
    assert sorted({w.top for w in windows}) == [0, 240, 480, 720, 876]
    assert len(windows) == 40
    assert len(sub_windows(1356, 2040, 480, 240, 160)) == 28


@given(*[st.integers(1, 90)] * 2, *[st.integers(1, 40)] * 2, st.integers(0, 20))
def test_sub_images_lie_within_and_cover(height, width, size, step, threshold):
    step = min(step, size)
    seen = np.zeros((height, width), bool)
    for window in sub_windows(height, width, size, step, threshold):
        assert (window.height, window.width) == (min(size, height), min(size, width))
        assert window.top + window.height <= height
        assert window.left + window.width <= width
        window.cut(seen)[:] = True
    uncovered = [seen.shape[axis] - seen.any(1 - axis).sum() for axis in (0, 1)]
    assert max(uncovered) <= threshold


def test_sub_images_are_numbered(folder, tmp_path):
    prepared(folder, tmp_path / "x", Settings(size=40, step=30))
    images, whole = stored(tmp_path / "x"), stored(folder)
    windows = sub_windows(70, 90, 40, 30, 0)
    for number, window in enumerate(windows, 1):
        assert np.array_equal(images[f"a_s{number:03d}"], window.cut(whole["a"]))
    lines = (tmp_path / "x_meta_info.txt").read_text().splitlines()
    assert lines[0] == "a_s001.png (40,40,3) 1"
    assert len(lines) == len(images)
    # as the options of a data set name it
    assert len(open_images("key", str(tmp_path / "x"), str(tmp_path / "x_meta_info.txt"))[0]) > 9


# Keys


def keys(tmp_path, *names):
    for name in names:
        save(tmp_path / name, coordinate_image(8, 8))
    (images,) = open_images("input", str(tmp_path))
    return keys_of(images)


def test_keys_tell_equal_names_apart(tmp_path):
    assert keys(tmp_path, "a.png", "b/a.png", "c/a.png", "c/a.bmp", "c/d.e.png") == [
        "a",
        "b/a",
        "c/a%2Ebmp",
        "c/a%2Epng",
        "c/d%2Ee",
    ]
    assert keys(tmp_path, "c/a.png.png")[3:5] == ["c/a%2Epng", "c/a%2Epng%2Epng"]


def images_named(names, roots=("in",)):
    sources = [ImageSourceOfNothing(Path(root)) for root in roots]
    return [StoredImage(source, name) for source in sources for name in names]


class ImageSourceOfNothing(ImageSource):
    def names(self, listed=None):
        raise NotImplementedError

    def read(self, name):
        raise NotImplementedError


@given(
    different_paths,
    st.sampled_from([("in",), ("in", "other")]),
    st.sampled_from(["", "a", "x4"]),
)
def test_keys_are_distinct_on_every_file_system_and_fit(names, roots, suffix):
    images = images_named(names, roots)
    found = keys_of(images, suffix)
    assert len({unicodedata.normalize("NFC", key).casefold() for key in found}) == len(images)
    for key in found:
        assert len(key.encode("ascii")) <= 511 - len("_s0000")
        assert all(part and len(part) <= 255 - len("_s0000.png") for part in key.split("/"))
        assert "." not in key
    # those of a pair of roots agree, in whatever order they are listed
    assert keys_of(images[::-1], suffix) == found[::-1]


def test_keys_that_differ_in_capitals_and_normal_forms():
    names = ["a.png", "A.png", "É.png", "é.png", "E\u0301.png", "B.png"]
    assert keys_of(images_named(names)) == [
        "a",
        "%41",
        "%C3%89",
        "%C3%A9",
        "E%CC%81",
        "B",
    ]


def test_a_name_made_to_be_like_a_shortened_one_gets_another_key():
    long = "x" * 251
    (short,) = keys_of(images_named([long]))
    assert len(set(keys_of(images_named([long, short])))) == 2


@pytest.mark.parametrize("output", ["x.lmdb", "x", "list.txt"])
def test_odd_names_come_back(tmp_path, monkeypatch, output):
    monkeypatch.chdir(tmp_path)
    odd = ["a\nb", ' "q"', "#%", "x (1,2,3) y", "\ufeffb", "漢" * 83, "y" * 251, "A", "a"]
    for number, name in enumerate(odd):
        save(tmp_path / "in" / f"{name}.png", coordinate_image(8, 9 + number))
    save(not_utf8(tmp_path / "in", b"\xff\xfe.png"), coordinate_image(8, 8))
    prepare.run(["in", "-o", output, "--workers", "1"])
    if output == "list.txt":
        (images,) = open_images("key", "in", output)
    elif output == "x":
        (images,) = open_images("key", "x", "x_meta_info.txt")
    else:
        (images,) = open_images("key", output)
    widths = [decode(image.read(), image.path).shape[1] for image in images]
    assert sorted(widths) == list(range(8, 9 + len(odd)))


def test_the_command_tells_names_of_every_kind_in_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    save(Path("in/a.png"), coordinate_image(8, 8))
    Path("in/b\n\x1b[31m.png").write_bytes(b"no image")
    stdout = io.TextIOWrapper(io.BytesIO(), "ascii")
    monkeypatch.setattr(sys, "stdout", stdout)
    output = not_utf8("", b"caf\xe9.lmdb").name
    assert main(["prepare", "in", "-o", output, "--workers", "1"]) == 2
    stdout.flush()
    assert rb"caf\udce9.lmdb: 1 images" in stdout.buffer.getvalue()
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert r"in/b\n\x1b[31m.png: cannot be read" in line
    assert len(stored(output)) == 1


@pytest.mark.parametrize("name", ["x" * 250, "x" * 255])
def test_outputs_with_long_names(folder, tmp_path, name):
    root = tmp_path / name
    prepared(folder, root)
    prepared(folder, root, overwrite=True)
    (file,) = tmp_path.glob("*_meta_info.txt")
    assert len(open_images("key", str(root), str(file))[0]) == 5
    with pytest.raises(UserError, match="File name too long"):
        prepared(folder, tmp_path / ("x" * 256))


def test_keys_of_several_roots_and_suffixes(tmp_path):
    for root in ("one", "two"):
        save(tmp_path / root / "0001x4.png", coordinate_image(8, 8))
    roots = open_images("input", [str(tmp_path / "one"), str(tmp_path / "two")])
    images = [image for root in roots for image in root]
    assert keys_of(images, "x4") == ["one/0001", "two/0001"]
    assert keys_of(roots[0], "x4") == ["0001"]


# Coarse and unreadable files


def jpeg_bytes(**options):
    return encoded(smooth_image(40, 40), "JPEG", **options)


def test_equivalent_quality():
    for quality in (1, 10, 49, 50, 51, 75, 95, 100):
        assert equivalent_quality_of_file(jpeg_bytes(quality=quality)) == quality
    assert equivalent_quality_of_file(jpeg_bytes(qtables=[[255] * 64] * 2)) == 1
    assert equivalent_quality_of_file(jpeg_bytes(qtables=[[1] * 64] * 2)) == 100
    between = [[16] * 64] * 2  # a sum of 1024, between qualities 78 and 79
    assert 70 < equivalent_quality_of_file(jpeg_bytes(qtables=between)) < 90
    assert equivalent_quality_of_file(b"no image") is None


def test_coarse_and_unreadable_files_are_left_out_and_listed(folder, tmp_path, capsys):
    (folder / "coarse.jpg").write_bytes(jpeg_bytes(quality=60))
    (folder / "fine.jpg").write_bytes(jpeg_bytes(quality=95))
    (folder / "broken.png").write_bytes((folder / "a.png").read_bytes()[:200])
    output = tmp_path / "x.lmdb"
    (folder / "gone.png").symlink_to("none")
    (folder / "photo.heic").touch()
    command = [str(folder), "-o", str(output), "--min-jpeg-quality", "90", "--workers", "1"]
    with pytest.raises(UserError, match=r"2 of the files or folders .*broken\.png") as error:
        prepare.run(command)
    assert "\n" not in str(error.value)
    told = capsys.readouterr().out
    assert "JPEGs of low quality: 1: " in told
    assert "not named like images: 1 .heic." in told
    assert stored(output).keys() == {stem(name) for name in SIZES} | {"grey", "fine"}
    left_out = (output / "left_out.txt").read_text().splitlines()
    assert [line.partition(": ")[0] for line in left_out] == [
        str(folder / "gone.png"),
        str(folder / "broken.png"),
        str(folder / "coarse.jpg"),
    ]


# Interruption


def interrupted(folder, output, after, **options):
    """Run until some images are stored, then stop as a kill between two of them does."""

    class Killed(BaseException):
        pass

    count = 0

    def progress():
        nonlocal count
        count += 1
        if count > after:
            raise Killed

    (images,) = open_images("input", str(folder))
    with pytest.raises(Killed):
        Preparation(images, keys_of(images), output, batch_bytes=1, **options).run(1, progress)


@pytest.mark.parametrize("store", ["png", "raw"])
def test_an_interrupted_run_goes_on(folder, tmp_path, store, monkeypatch):
    output = tmp_path / "x.lmdb"
    settings = Settings(store=store)
    interrupted(folder, output, 3, settings=settings)
    assert not output.exists()
    with (tmp_path / "x.lmdb.partial/journal.jsonl").open("a") as journal:
        journal.write('{"entries": [["torn')
    read = []
    original = FolderSource.read
    monkeypatch.setattr(FolderSource, "read", lambda *a: read.append(a) or original(*a))
    report = prepared(folder, output, settings)
    assert len(read) == 2  # three of five were stored
    assert report.entries == 5
    monkeypatch.undo()
    images, expected = stored(output), stored(folder)
    assert all(np.array_equal(images[key], expected[key]) for key in expected)
    assert not (tmp_path / "x.lmdb.partial").exists()


@pytest.mark.parametrize("rest", [b"\0" * 40 + b"\n", b"[]\n", b"\xff\n", b'{"entries": 1}\n'])
def test_a_journal_with_a_broken_end_goes_on(folder, tmp_path, rest):
    interrupted(folder, tmp_path / "x.lmdb", 3, settings=Settings())
    with (tmp_path / "x.lmdb.partial/journal.jsonl").open("ab") as journal:
        journal.write(rest)
    assert prepared(folder, tmp_path / "x.lmdb").entries == 5


def test_a_folder_of_the_users_is_not_built_in(folder, tmp_path):
    save(tmp_path / "x.lmdb.partial/mine.png", coordinate_image(8, 8))
    with pytest.raises(UserError, match=r"x\.lmdb\.partial/mine\.png: was not made by"):
        prepared(folder, tmp_path / "x.lmdb", overwrite=True)
    assert (tmp_path / "x.lmdb.partial/mine.png").exists()


def test_other_settings_or_images_do_not_go_on(folder, tmp_path):
    output = tmp_path / "x.lmdb"
    interrupted(folder, output, 2, settings=Settings())
    with pytest.raises(UserError, match="interrupted run with other size, step left it"):
        prepared(folder, output, Settings(size=32, step=16))
    save(folder / "new.png", coordinate_image(8, 8))
    with pytest.raises(UserError, match="interrupted run with other images, names left it"):
        prepared(folder, output)
    assert prepared(folder, output, overwrite=True).entries == 6
    assert len(stored(output)) == 6


def test_a_killed_command_leaves_nothing_that_looks_whole(tmp_path, monkeypatch):
    """Killed for real, workers and all, in the midst of writing; the next run completes it."""
    root = tmp_path / "images"
    noise = np.random.default_rng(0).integers(0, 256, (400, 400, 3), dtype=np.uint8)
    for number in range(60):
        save(root / f"{number}.png", np.roll(noise, number, 0), compress_level=0)
    script = (
        "import cir_data, sys; from pathlib import Path\n"
        "from cir_data.prepare.keys import keys_of\n"
        "from cir_data.prepare.one_image import Settings\n"
        "from cir_data.prepare.preparation import Preparation\n"
        "from cir_data.storage.dataroots import open_images\n"
        "(images,) = open_images('input', 'images')\n"
        "Preparation(images, keys_of(images), Path('x.lmdb'), Settings(store='raw'),"
        " batch_bytes=1).run(2)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", script], cwd=tmp_path)
    journal = tmp_path / "x.lmdb.partial/journal.jsonl"
    deadline = time.monotonic() + 60
    while not (journal.is_file() and journal.stat().st_size):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.002)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    workers = children.read_text().split() if children.is_file() else []
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "x.lmdb").exists(), "it ended before it was killed"
    while any(Path(f"/proc/{worker}").exists() for worker in workers):
        assert time.monotonic() < deadline, "workers outlive their parent"
        time.sleep(0.02)
    done = len(journal.read_text().splitlines())
    assert 0 < done < 60
    monkeypatch.chdir(tmp_path)
    assert prepared("images", Path("x.lmdb"), Settings(store="raw")).entries == 60
    for key, image in stored(tmp_path / "x.lmdb").items():
        assert np.array_equal(image, np.roll(noise, int(key), 0))


# Room


def test_a_full_map_grows(folder, tmp_path):
    prepared(folder, tmp_path / "x.lmdb", Settings(store="raw"), map_size=1 << 14)
    assert len(stored(tmp_path / "x.lmdb")) == 5
    assert (tmp_path / "x.lmdb/data.mdb").stat().st_size > 1 << 14


def test_a_full_disk_is_one_line_and_loses_nothing(folder, tmp_path, monkeypatch):
    interrupted(folder, tmp_path / "x.lmdb", 2, settings=Settings())

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(LmdbWriter, "write", full)
        with pytest.raises(UserError, match=r"x\.lmdb\.partial: cannot be written \(No space left"):
            prepared(folder, tmp_path / "x.lmdb")
    assert prepared(folder, tmp_path / "x.lmdb").entries == 5


def test_raw_pixels_that_do_not_fit_are_refused_before_they_start(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(prepare, "free_bytes", lambda _: 40_000)
    command = [str(folder), "-o", str(tmp_path / "x.lmdb"), "--store", "raw", "--workers", "1"]
    with pytest.raises(UserError, match=r"raw pixels take 0\.1 MB, but 0\.0 MB are free"):
        prepare.run(command)
    assert not (tmp_path / "x.lmdb.partial").exists()


def test_room_is_told_to_the_page(folder, tmp_path):
    (folder / "grey.png").unlink()  # its sub-images are so small that several share a page
    (images,) = open_images("input", str(folder))
    settings = Settings(store="raw", size=32, step=16)
    preparation = Preparation(images, keys_of(images), tmp_path / "x.lmdb", settings)
    needed = preparation.bytes_needed(1)
    preparation.run(1)
    with lmdb.open(str(tmp_path / "x.lmdb"), readonly=True, lock=False) as environment:
        assert needed == environment.stat()["overflow_pages"] * environment.stat()["psize"]


# Changed data bases


def test_a_changed_lmdb_is_named(folder, tmp_path):
    output = tmp_path / "x.lmdb"
    prepared(folder, output)
    with lmdb.open(str(output)) as environment, environment.begin(write=True) as transaction:
        transaction.put(b"a", b"another")
    with pytest.raises(UserError, match=r"x\.lmdb: the LMDB was changed"):
        stored(output)


def test_a_broken_manifest_is_named(folder, tmp_path):
    prepared(folder, tmp_path / "x.lmdb")
    (tmp_path / "x.lmdb/prepare.json").write_text("{")
    with pytest.raises(UserError, match=r"prepare\.json: cannot be read"):
        stored(tmp_path / "x.lmdb")


# Bad input


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none", "-o", "x.lmdb"], r"^input: none: no such folder"),
        (["empty", "-o", "x.lmdb"], r"^input: empty: no images in it"),
        (["images", "-o", "images/x.lmdb"], r"^images/x\.lmdb: lies in the input images"),
        (["images", "-o", "x", "--store", "raw"], r"^x: raw pixels are stored in an LMDB"),
        (["images", "-o", "empty", "--overwrite"], r"^empty: was not made by"),
        (["images", "-o", "empty"], r"^empty: exists already"),
        (["images", "images", "-o", "x.lmdb"], r"name a folder twice"),
        (["~no_such_user", "-o", "x.lmdb"], r"^input: ~no_such_user: no such folder"),
        (["--recipe", "LIVE1"], r"^--recipe: datasets/LIVE1: no such folder"),
        (["--recipe", "LIVE1", "--datasets", "few"], r"few/LIVE1: holds 1 images, not the 29"),
        (["broken", "-o", "x.lmdb"], r"^no image could be used: broken/a\.png: cannot be read"),
    ],
)
def test_bad_input_is_one_line(folder, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    save(Path("few/LIVE1/a.png"), coordinate_image(8, 8))
    Path("broken").mkdir()
    Path("broken/a.png").write_bytes(b"no image")
    with pytest.raises(UserError, match=message) as error:
        prepare.run([*arguments, "--workers", "1"])
    assert "\n" not in str(error.value)
    assert not list(Path().glob("x*"))


@pytest.mark.parametrize(
    "arguments", [[], ["a"], ["a", "--recipe", "LIVE1"], ["a", "-o", "x", "--step", "3"]]
)
def test_incomplete_commands_are_refused(arguments):
    with pytest.raises(SystemExit):
        prepare.run(arguments)


def test_an_existing_store_is_replaced_when_asked(folder, tmp_path):
    prepared(folder, tmp_path / "x.lmdb")
    with pytest.raises(UserError, match=r"x\.lmdb: exists already"):
        prepared(folder, tmp_path / "x.lmdb")
    prepared(folder, tmp_path / "x.lmdb", Settings(store="raw"), overwrite=True)
    assert json.loads((tmp_path / "x.lmdb/prepare.json").read_text())["store"] == "raw"


def test_two_runs_do_not_meet(folder, tmp_path):
    pytest.importorskip("fcntl")
    (images,) = open_images("input", str(folder))
    first, second = (
        Preparation(images, keys_of(images), tmp_path / "x.lmdb", Settings()) for _ in range(2)
    )

    def meet():
        with pytest.raises(UserError, match="another `basicsr prepare` is at work"):
            second.run(1)

    first.run(1, meet)


# The command


def test_a_list_of_images(folder, tmp_path):
    prepare.run([str(folder), "-o", str(tmp_path / "list.txt"), "--workers", "1"])
    lines = (tmp_path / "list.txt").read_text().splitlines()
    assert lines[0] == "a.png (70,90,3)"
    assert "grey.png (50,60,1)" in lines
    assert len(open_images("key", str(folder), str(tmp_path / "list.txt"))[0]) == 5


def test_a_recipe(tmp_path, monkeypatch, capsys):
    live1 = Path("datasets/LIVE1").resolve()
    if not live1.is_dir():
        pytest.skip("needs datasets/LIVE1")
    (tmp_path / "datasets").mkdir()
    (tmp_path / "datasets/LIVE1").symlink_to(live1)
    monkeypatch.chdir(tmp_path)
    prepare.run(["--recipe", "LIVE1", "-o", "list.txt", "--workers", "1"])
    assert "live.ece.utexas.edu" in capsys.readouterr().out
    assert len(Path("list.txt").read_text().splitlines()) == 29


def test_other_pixels_than_a_recipe_knows_are_refused(folder):
    (images,) = open_images("input", str(folder))
    with pytest.raises(UserError, match="not those of the known copy"):
        KNOWN_DATASETS["Classic5"].check_pixels(images)


def test_processes_keep_the_order():
    assert list(ordered_map(str, range(40), 2)) == [str(i) for i in range(40)]


def test_a_killed_worker_is_one_line():
    with pytest.raises(UserError, match="a worker process was killed"):
        list(ordered_map(os._exit, [3], 2))
