"""Images that BasicSR's data sets read and its models save: every name, and what fails."""

import os

import cir_host  # noqa: F401 (makes BasicSR importable)

# isort: split
import cv2
import numpy as np
import pytest
from basicsr.models import sr_model
from basicsr.utils import FileClient, imfrombytes, imwrite
from name_tools import not_utf8

from cir_host.errors import UserError

IMAGE = np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8)


def test_an_image_is_what_opencv_writes(tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), IMAGE)
    imwrite(IMAGE, str(tmp_path / "new/b.png"))
    assert (tmp_path / "new/b.png").read_bytes() == (tmp_path / "a.png").read_bytes()


@pytest.mark.parametrize(
    ("name", "advice"),
    [("a.png", "remove or replace it"), ("train.lmdb/lock.mdb", r"io_backend: \{type: lmdb\}")],
)
def test_what_is_no_image_is_named(tmp_path, name, advice):
    """BasicSR's data sets take the files of an LMDB for images if they get no io_backend."""
    file = tmp_path / name
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(b"no image")
    with pytest.raises(UserError, match=rf"{name}: cannot be read as an image; .*{advice}"):
        imfrombytes(FileClient("disk").get(file), float32=True)


def test_a_name_that_is_not_utf8_is_written(tmp_path):
    path = not_utf8(tmp_path, b"caf\xe9.png")
    sr_model.imwrite(IMAGE, str(path))
    assert np.array_equal(cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), -1), IMAGE)


def test_names_that_are_too_long_are_cut_and_stay_distinct(tmp_path):
    for end in "ab":
        long = "é" * 125 + end
        imwrite(IMAGE, str(tmp_path / (long + "_folder") / f"{long}_10.png"))
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) == 2
    assert len({path.parent for path in files}) == 2
    for path in files:
        assert len(os.fsencode(path.name)) <= 255
        assert path.suffix == ".png"


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("file/a.png", "Not a directory|File exists"),
        ("a.xyz", "extension|encoder"),
        ("\0.png", "null"),
    ],
)
def test_an_image_that_cannot_be_written_is_one_line(tmp_path, name, reason):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=rf"cannot be written \(.*({reason})") as error:
        imwrite(IMAGE, str(tmp_path / name))
    assert "\n" not in str(error.value)
