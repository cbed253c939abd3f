import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import lmdb
import numpy as np
import pytest
from data_tools import coordinate_image, save, write_lmdb

from cir_data.image_io import decode
from cir_data.sources import FolderSource, StoredImage, StoredImages, open_images
from cir_host.errors import UserError

IMAGE = coordinate_image(9, 7)


def names(roots, files=None):
    return [[image.name for image in images] for images in open_images("key", roots, files)]


def test_folders_are_searched_in_order(tmp_path):
    wanted = ["B.PNG", "a.jpg", "b.c/a.png", "deep/er/a.webp", "deep/x.TIFF", "z.bmp", "z.jpeg"]
    for name in [*wanted, ".hidden.png", ".cache/a.png", "notes.txt", "png"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    assert names(str(tmp_path)) == [wanted]


def test_links_are_followed_but_not_in_a_circle(tmp_path):
    save(tmp_path / "elsewhere/a.png", IMAGE)
    root = tmp_path / "root"
    save(root / "b.png", IMAGE)
    (root / "link").symlink_to(tmp_path / "elsewhere")
    (root / "circle").symlink_to(root)
    assert names(str(root)) == [["b.png", "link/a.png"]]


def test_several_roots_and_a_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    save(tmp_path / "one/a.png", IMAGE)
    save(tmp_path / "two/a.png", IMAGE)
    one, two = open_images("key", ["~/one", str(tmp_path / "two")])
    assert [one[0].path, two[0].path] == [str(tmp_path / f"{n}/a.png") for n in ("one", "two")]
    assert one[0].read() == (tmp_path / "one/a.png").read_bytes()


def test_meta_info_chooses_and_orders(tmp_path):
    for name in ("a.png", "sub/b.png", "c d.png"):
        save(tmp_path / "images" / name, IMAGE)
    file = tmp_path / "list.txt"
    file.write_text("sub/b.png (9,7,3)\n\nc d.png (9,7,3) 1\na.png\n", encoding="utf-8")
    assert names(str(tmp_path / "images"), str(file)) == [["sub/b.png", "c d.png", "a.png"]]


def test_lmdb_of_basicsr(tmp_path):
    images = {key: coordinate_image(8 + i, 9) for i, key in enumerate(["a", "sub/a", "x.y"])}
    root = write_lmdb(tmp_path / "t.lmdb", images)
    (stored,) = open_images("key", root)
    assert [image.path for image in stored] == [f"{root}/{key}.png" for key in images]
    for image, expected in zip(stored, images.values(), strict=True):
        assert np.array_equal(decode(image.read(), image.path), expected)
    (chosen,) = open_images("key", root, str(save_text(tmp_path / "list.txt", "sub/a.png\n")))
    assert [image.name for image in chosen] == ["sub/a.png"]


def save_text(path, text):
    path.write_text(text, encoding="utf-8")
    return path


def read_all(images):
    return [bytes(image.read()) for image in images]


def test_stored_images_are_those_put_in(tmp_path):
    one, two = FolderSource(tmp_path), FolderSource(tmp_path)
    images = [
        StoredImage(one, "a.png"),
        StoredImage(two, "ä b/\N{SNOWMAN}.png"),
        StoredImage(one, "z\udcff.png"),  # a file name that is no UTF-8
    ]
    stored = StoredImages(iter(images))
    assert list(stored) == images
    assert [image.source for image in stored] == [one, two, one]
    assert (len(stored), stored[-1], list(stored[1:])) == (3, images[2], images[1:])
    for index in (3, -4):
        with pytest.raises(IndexError):
            stored[index]


def inherit(images):
    global inherited
    inherited = images


def kilobytes_to_read_inherited():
    """What reading every name adds to this process's own memory."""

    def private():
        lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("Private_Dirty"))

    before = private()
    assert all(image.name for image in inherited)
    return private() - before


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="needs Linux's /proc")
def test_a_worker_that_reads_stored_images_does_not_copy_them(tmp_path):
    source = FolderSource(tmp_path)
    stored = StoredImages(StoredImage(source, f"{number:06}.png") for number in range(50_000))
    context = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(1, context, inherit, (stored,)) as pool:
        assert pool.submit(kilobytes_to_read_inherited).result() < 2_000  # a list's: 8,000


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_lmdb_in_another_process(tmp_path, method):
    root = write_lmdb(tmp_path / "t.lmdb", {"a": IMAGE, "b": IMAGE[:5]})
    alias = tmp_path / "alias.lmdb"
    alias.symlink_to(root)
    images = [image for root in open_images("key", [root, str(alias)]) for image in root]
    contents = read_all(images)  # opens it here, once for both names
    with ProcessPoolExecutor(1, multiprocessing.get_context(method)) as pool:
        assert pool.submit(read_all, images).result() == contents
    assert read_all(images) == contents


def test_truncated_lmdb_is_named(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (90, 90, 3), dtype=np.uint8)
    root = write_lmdb(tmp_path / "t.lmdb", {str(i): noise for i in range(8)})
    data = Path(root) / "data.mdb"
    with data.open("r+b") as file:
        file.truncate(data.stat().st_size // 2)
    (images,) = open_images("key", root)
    with pytest.raises(UserError, match=r"t\.lmdb: the LMDB is truncated"):
        images[-1].read()


def test_changed_lmdb_is_named(tmp_path):
    root = write_lmdb(tmp_path / "t.lmdb", {"a": IMAGE, "b": IMAGE})
    with lmdb.open(root) as environment, environment.begin(write=True) as transaction:
        transaction.delete(b"b")
    (images,) = open_images("key", root)
    with pytest.raises(UserError, match=r"t\.lmdb: no key 'b'"):
        images[1].read()


@pytest.mark.parametrize(
    ("root", "file", "message"),
    [
        ("none", None, r"^key: none: no such folder"),
        ("empty", None, r"^key: empty: no images in it \(\.bmp, .*\.webp\)"),
        ("some", "none.txt", r"none\.txt: No such file"),
        ("some", "blank.txt", r"blank\.txt: lists no images"),
        ("some", "list.txt", r"some: .*1\.png, 2\.png, 3\.png and 1 more"),
        ("none.lmdb", None, r"^key: none\.lmdb: no LMDB there"),
        ("t.lmdb", "list.txt", r"t\.lmdb: .*1\.png, 2\.png, 3\.png and 1 more"),
    ],
)
def test_what_is_not_there_is_named(tmp_path, monkeypatch, root, file, message):
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    save(Path("some/a.png"), IMAGE)
    write_lmdb(Path("t.lmdb"), {"a": IMAGE})
    save_text(Path("blank.txt"), "\n")
    save_text(Path("list.txt"), "a.png\n1.png\n2.png\n3.png\n4.png\n")
    with pytest.raises(UserError, match=message):
        open_images("key", root, file)


def test_vanished_file_is_named(tmp_path):
    path = save(tmp_path / "a.png", IMAGE)
    ((image,),) = open_images("key", str(tmp_path))
    path.unlink()
    with pytest.raises(UserError, match=r"a\.png: No such file"):
        image.read()
