import multiprocessing
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import lmdb
import numpy as np
import pytest
from data_tools import coordinate_image, make, save, write_lmdb
from host_tools import basicsr_log
from hypothesis import given
from hypothesis import strategies as st
from name_tools import file_paths, not_utf8

from cir_data.images.decoding import decode
from cir_data.images.errors import UnreadableImage
from cir_data.prepare.one_image import shape_of
from cir_data.storage.dataroots import find_images, open_images
from cir_data.storage.folder_source import FolderSource
from cir_data.storage.image_source import StoredImage
from cir_data.storage.meta_info import meta_info_bytes, meta_info_line, read_meta_info
from cir_data.storage.stored_images import StoredImages
from cir_host.errors import OptionsError, UserError
from cir_host.files import part_of

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


# What is left out


def unusable(root):
    """Lines without the root, of one that holds images too."""
    (images,), skipped = find_images("key", str(root))
    assert [image.name for image in images] == ["good.png"]
    lines = [line.removeprefix(f"{root}/") for line in skipped.unusable]
    with pytest.raises(UserError, match=r"^key: .*mend or remove what cannot be used") as error:
        open_images("key", str(root))
    assert lines[0] in str(error.value)
    return lines


def test_a_folder_that_cannot_be_listed_is_named(tmp_path, monkeypatch):
    save(tmp_path / "good.png", IMAGE)
    save(tmp_path / "secret/a.png", IMAGE)
    scandir = os.scandir

    def refusing(path):
        if Path(path).name == "secret":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    assert unusable(tmp_path) == ["secret: cannot be listed (Permission denied)"]


def test_links_that_lead_nowhere_are_named(tmp_path):
    save(tmp_path / "good.png", IMAGE)
    (tmp_path / "a.png").symlink_to(tmp_path / "none.png")
    (tmp_path / "folder").symlink_to(tmp_path / "none")
    (tmp_path / "loop.png").symlink_to("loop.png")
    lines = unusable(tmp_path)
    assert lines[:2] == ["a.png: a link to nothing", "folder: a link to nothing"]
    assert lines[2].startswith("loop.png: ")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_pipes_and_devices_are_named_and_not_read(tmp_path):
    save(tmp_path / "good.png", IMAGE)
    os.mkfifo(tmp_path / "a.png")
    (tmp_path / "zero.png").symlink_to("/dev/zero")
    why = "a pipe or device, not a file"
    assert unusable(tmp_path) == [f"a.png: {why}", f"zero.png: {why}"]
    with pytest.raises(UserError, match=r"missing images .*: a\.png$"):
        open_images("key", str(tmp_path), str(save_text(tmp_path / "l.txt", "a.png\n")))
    for name in ("a.png", "zero.png"):  # put there after they were listed
        with pytest.raises(UnreadableImage, match="a pipe or device"):
            FolderSource(tmp_path).read(name)


def test_files_that_may_be_images_are_counted(tmp_path):
    save(tmp_path / "good.png", IMAGE)
    left_by_a_killed_run = part_of(tmp_path / "good.png").name
    for name in ("a.heic", "b.HEIC", "c.jfif", "README", "notes.txt", left_by_a_killed_run):
        (tmp_path / name).touch()
    (tmp_path / ".hidden.jfif").touch()
    _, skipped = find_images("key", str(tmp_path))
    assert skipped.describe() == "2 .heic, 1 without a suffix, 1 .jfif, 1 .txt"
    with basicsr_log() as log:
        open_images("key", str(tmp_path))
    (line,) = log
    assert line.startswith("key: skips files that may be images: 2 .heic, 1 .jfif. To use")
    (tmp_path / "good.png").unlink()
    with pytest.raises(UserError, match=r"no images in it \(.*\); it holds 2 \.heic, 1 without"):
        open_images("key", str(tmp_path))


def test_folders_may_be_deeper_than_python_calls(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for _ in range(1100):
        Path("d").mkdir()
        os.chdir("d")
    save(Path("a.png"), IMAGE)
    try:
        (found,) = names(str(tmp_path))
        assert found == ["d/" * 1100 + "a.png"]
    finally:  # pytest cannot remove it
        for _ in range(1100):
            os.chdir("..")
            for path in Path("d").iterdir():
                path.unlink() if path.is_file() else path.rmdir()


def test_a_path_of_no_user_is_no_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"^key: ~no_such_user/x: no such folder"):
        open_images("key", "~no_such_user/x")
    save(Path("images/a.png"), IMAGE)
    with pytest.raises(UserError, match=r"^meta_info_file: ~no_such_user: No such file"):
        open_images("key", "images", "~no_such_user")
    save_text(Path("~list"), "a.png\n")
    assert names("images", "~list") == [["a.png"]]


# Lists


@given(st.lists(file_paths, min_size=1))
def test_a_list_gives_back_every_name(tmp_path_factory, listed):
    file = tmp_path_factory.getbasetemp() / "list.txt"
    file.write_bytes(meta_info_bytes(meta_info_line(name, "(9,7,3)", 1) for name in listed))
    assert read_meta_info(file) == listed


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_lists_are_read_as_editors_write_them(tmp_path, encoding, end):
    lines = ["é.png (9,7,3) 1", "", " b.png\t", '"c d.png"', "e f.png", "x (1,2) y.png (9,7)", "g"]
    text = end.join(lines)
    text = "\ufeff" + text if encoding == "utf-16-be" else text
    (tmp_path / "l.txt").write_bytes(text.encode(encoding))
    found = read_meta_info(tmp_path / "l.txt")
    assert found == ["é.png", "b.png", "c d.png", "e f.png", "x (1,2) y.png", "g"]


def test_a_list_of_windows_has_backslashes(tmp_path):
    save(tmp_path / "sub/a.png", IMAGE)
    save(tmp_path / "b\\c.png", IMAGE)
    root = write_lmdb(tmp_path / "t.lmdb", {"sub/a": IMAGE})
    file = save_text(tmp_path / "l.txt", "sub\\a.png\nb\\c.png\n")
    assert names(str(tmp_path), str(file)) == [["sub/a.png", "b\\c.png"]]
    file = save_text(tmp_path / "l.txt", '"sub\\a.png"\n')
    assert names(root, str(file)) == [["sub/a.png"]]


def test_names_that_are_not_utf8(tmp_path):
    save(not_utf8(tmp_path, b"caf\xe9.png"), IMAGE)
    (tmp_path / "l.txt").write_bytes(b"caf\xe9.png\n")
    for file in (None, str(tmp_path / "l.txt")):
        ((image,),) = open_images("key", str(tmp_path), file)
        assert decode(image.read(), image.path).shape == IMAGE.shape


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\xff\xfea", "not UTF-16"),
        (b"\0\n", "missing images"),
        (b"x" * 5000, "missing images"),
        (b".\n..\n", "missing images"),
    ],
)
@pytest.mark.parametrize("kind", ["folder", "lmdb"])
def test_a_list_that_cannot_be_used_is_one_error(tmp_path, content, message, kind):
    save(tmp_path / "images/a.png", IMAGE)
    root = write_lmdb(tmp_path / "t.lmdb", {"a": IMAGE}) if kind == "lmdb" else tmp_path / "images"
    (tmp_path / "l.txt").write_bytes(content)
    with pytest.raises(UserError, match=message):
        open_images("key", str(root), str(tmp_path / "l.txt"))


def test_a_list_that_cannot_be_read_is_named_by_its_key(tmp_path):
    save(tmp_path / "a.png", IMAGE)
    with pytest.raises(UserError, match=r"^meta_info_file: .*no\.txt: No such file"):
        open_images("dataroot_gt", str(tmp_path), str(tmp_path / "no.txt"))


def test_a_list_of_meta_info_files_leaves_out_a_root(tmp_path):
    save(tmp_path / "one/a.png", IMAGE)
    save(tmp_path / "one/b.png", IMAGE)
    save(tmp_path / "two/c.png", IMAGE)
    (tmp_path / "list.txt").write_text("b.png\n")
    roots = [str(tmp_path / name) for name in ("one", "two")]
    assert names(roots, [str(tmp_path / "list.txt"), None]) == [["b.png"], ["c.png"]]
    options = {"quality": 30, "gt_size": 4, "dataroot_gt": roots}
    with pytest.raises(OptionsError, match=r"must name as many files as dataroot_gt names roots"):
        make("JPEGRestorationDataset", **options, meta_info_file=[None])
    lists = [None, str(tmp_path / "list.txt")]
    with pytest.raises(UserError, match=r"missing images that the meta_info_file lists: b\.png"):
        make("JPEGRestorationDataset", **options, meta_info_file=lists)


def test_jpeg_xl_is_read_or_its_package_named(tmp_path, monkeypatch):
    pytest.importorskip("pillow_jxl")
    save(tmp_path / "a.jxl", IMAGE, lossless=True)
    ((image,),) = open_images("key", str(tmp_path))
    assert np.array_equal(decode(image.read(), image.path), IMAGE)
    assert shape_of(image) == (9, 7, 3)
    monkeypatch.setitem(sys.modules, "pillow_jxl", None)
    assert "a.jxl: " in shape_of(image)
    assert "pip install" in shape_of(image)
    with pytest.raises(UserError, match=r"a\.jxl: .*pip install 'basicsr-cir\[codecs\]'") as caught:
        decode(image.read(), image.path)
    assert not isinstance(caught.value, UnreadableImage)  # which another image would replace


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
