"""``basicsr restore`` on what people's folders hold beside plain pictures: nothing lost or hung."""

import errno
import io
import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from cir_cli import main, restore
from cir_model.restoring import on_disk as restoring

pytestmark = pytest.mark.usefixtures("identity")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in").mkdir()
    return tmp_path


def picture(path, value=0, **arguments):
    pixels = np.add.outer(np.arange(40), np.arange(60))[..., None] * [2, 1, 2] + value
    path.parent.mkdir(exist_ok=True)
    Image.fromarray((pixels % 256).astype(np.uint8)).save(path, **arguments)
    return path


def run(*arguments):
    return restore.run([*map(str, arguments), "-m", "weights.pth"])


def written(where="out"):
    return sorted(path.relative_to(where).as_posix() for path in Path(where).rglob("*"))


def test_a_later_neighbour_gets_its_own_result(folder, capsys):
    picture(folder / "in/a.jpg", quality=30)
    run("in", "-o", "out")
    first = (folder / "out/a.png").read_bytes()
    picture(folder / "in/a.png", 50)
    assert run("in", "-o", "out") == 0
    err = capsys.readouterr().err
    assert "0 restored, 1 copied, 1 skipped, 0 failed" in err
    assert "out/a.png exists and was not made from it" in err
    (other,) = set(written()) - {"a.png"}
    assert (folder / "out/a.png").read_bytes() == first
    assert (folder / "out" / other).read_bytes() == (folder / "in/a.png").read_bytes()
    run("in", "-o", "out")
    assert "0 restored, 0 copied, 2 skipped, 0 failed" in capsys.readouterr().err
    assert len(written()) == 2


@pytest.mark.parametrize("file_format", ["png", "webp", "jpeg", "tiff"])
def test_two_folders_into_one_output_lose_nothing(file_format, folder, capsys):
    for index in (1, 2):
        picture(folder / f"in{index}/a.jpg", 40 * index, quality=30)
        for _ in range(2):
            assert run(f"in{index}", "-o", "out", "--format", file_format) == 0
    err = capsys.readouterr().err
    assert err.count("1 restored, 0 copied, 0 skipped") == 2
    assert err.count("0 restored, 0 copied, 1 skipped") == 2
    assert len(written()) == 2


def test_a_foreign_file_in_the_place_is_never_replaced(folder):
    picture(folder / "in/a.jpg", quality=30)
    (folder / "out").mkdir()
    (folder / "out/a.png").write_text("notes")
    assert run("in", "-o", "out") == 0
    assert (folder / "out/a.png").read_text() == "notes"
    assert len(written()) == 2
    assert run("in", "-o", "out", "--overwrite") == 0
    with Image.open("out/a.png") as image:
        assert image.size == (60, 40)


def test_an_output_file_that_exists_is_an_error(folder, capsys):
    for name in ("a", "b"):
        picture(folder / f"in/{name}.jpg", ord(name), quality=30)
    assert run("in/a.jpg", "-o", "x.png") == 0
    assert run("in/a.jpg", "-o", "x.png") == 0
    assert "skipped" in capsys.readouterr().err
    assert run("in/b.jpg", "-o", "x.png") == 1
    assert "x.png: exists; give --overwrite to replace it" in capsys.readouterr().err


def test_standard_input_is_skipped_and_told_like_a_file(folder, capsys, monkeypatch):
    def restored(quality, name):
        data = picture(folder / "in/a.jpg", quality, quality=quality).read_bytes()
        monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(data)))
        status = run("-", "-o", name)
        return status, capsys.readouterr().err

    for quality, name in ((30, "x.jpg"), (100, "y.png")):
        status, err = restored(quality, name)
        assert status == 0
        assert ("y.png is a JPEG file, since copies keep their format" in err) is (quality == 100)
        assert restored(quality, name)[0] == 0
        assert f"standard input: skipped, {name} was made from it" in restored(quality, name)[1]
    assert restored(40, "x.jpg")[0] == 1
    assert "error: x.jpg: exists; give --overwrite" in restored(40, "x.jpg")[1]


def test_pipes_and_devices_are_not_waited_for(folder, capsys):
    picture(folder / "in/z.jpg", quality=30)
    os.mkfifo(folder / "in/a.jpg")
    (folder / "in/b.jpg").symlink_to("/dev/zero")
    assert run("in", "-o", "out") == 0
    err = capsys.readouterr().err
    assert "1 restored" in err
    assert "left out: pipes and devices: 2 (in/a.jpg, in/b.jpg)" in err
    assert run("in/a.jpg", "in/z.jpg", "-o", "out") == 1
    assert "in/a.jpg: is a pipe or a device, not a regular file" in capsys.readouterr().err


def test_what_cannot_be_read_fails_and_the_rest_is_restored(folder, capsys):
    picture(folder / "in/a.jpg", quality=30)
    (folder / "in/gone.jpg").symlink_to("nowhere")
    (folder / "in/note.txt").write_text("x")
    assert run("in", "-o", "out") == 1
    err = capsys.readouterr().err
    assert "error: in/gone.jpg: a link to a missing file" in err
    assert "left out: files of other kinds: 1 (by suffix: 1 .txt)" in err
    assert "1 restored, 0 copied, 0 skipped, 1 failed" in err


def test_an_unforeseen_error_fails_one_file_alone(folder, capsys, monkeypatch):
    for name in ("a", "b", "c"):
        picture(folder / f"in/{name}.jpg", ord(name), quality=30)
    real = restoring.restore_picture
    calls = iter([True, False, False])

    def fails_once(*arguments, **inputs):
        if next(calls):
            raise ZeroDivisionError("division\nby zero")
        return real(*arguments, **inputs)

    monkeypatch.setattr(restoring, "restore_picture", fails_once)
    assert run("in", "-o", "out") == 1
    err = capsys.readouterr().err
    assert "error: in/a.jpg: ZeroDivisionError: division by zero" in err
    assert "2 restored, 0 copied, 0 skipped, 1 failed" in err


def test_metadata_that_are_dropped_are_told(folder, capsys):
    xmp = b"<x:xmpmeta>" + b" " * 70_000 + b"</x:xmpmeta>"
    picture(folder / "in/a.webp", quality=30, xmp=xmp)
    assert run("in", "-o", "out", "--format", "jpeg") == 0
    assert "warning: in/a.webp: dropped XMP (70 kB" in capsys.readouterr().err


@pytest.mark.parametrize("length", [251, 252, 255])
def test_the_longest_names(length, folder):
    name = "n" * (length - 4) + ".jpg"
    picture(folder / "in" / name, quality=30)
    picture(folder / "in" / (name[:-4] + ".JPG"), 9, quality=30)
    for _ in range(2):
        assert run("in", "-o", "out", "--format", "webp", "--compare", "strips") == 0
    assert len(written()) == len(written("strips")) == 2


def test_names_that_are_not_utf_8(folder, capfd):
    name = os.fsdecode(b"caf\xe9.jpg")
    picture(folder / "in" / name, quality=30)
    flags = ["--report", "page.html", "--compare", "strips"]
    assert run("in", "-o", "out", *flags) == 0
    assert [os.fsencode(name) for name in written()] == [b"caf\xe9.png"]
    assert "caf\ufffd.jpg" in Path("page.html").read_text(encoding="utf-8")
    assert run("in/" + name, "-o", os.fsdecode(b"\xff.png")) == 0
    assert "1 restored" in capfd.readouterr().err


def test_the_report_of_an_interrupted_batch_is_written(folder, monkeypatch):
    for name in ("a", "b"):
        picture(folder / f"in/{name}.jpg", quality=30)
    real = restore.begin_job
    calls = iter([False, True])

    def interrupted(*arguments):
        if next(calls):
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(restore, "begin_job", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run("in", "-o", "out", "--report", "page.html")
    assert "in/a.jpg" in Path("page.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("variables", "status", "said"),
    [
        ({"RANK": "1"}, 0, "RANK=1 is ignored"),
        ({"WORLD_SIZE": "4"}, 0, "WORLD_SIZE=4 is ignored"),
        ({"RANK": "x", "WORLD_SIZE": "2"}, 2, "RANK=x and WORLD_SIZE=2"),
        ({"RANK": "2", "WORLD_SIZE": "2"}, 2, "RANK=2 and WORLD_SIZE=2"),
        ({"RANK": "0", "WORLD_SIZE": "2"}, 0, "part 1 of 2"),
    ],
)
def test_variables_of_torchrun(variables, status, said, folder, capsys, monkeypatch):
    for name in ("a", "b"):
        picture(folder / f"in/{name}.jpg", ord(name), quality=30)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert main.main(["restore", "in", "-o", "out", "-m", "x.pth"]) == status
    assert said in capsys.readouterr().err
    if status == 0:
        assert len(written()) == (1 if len(variables) == 2 else 2)


def test_files_for_pages_and_strips_are_looked_at_first(folder, capsys):
    picture(folder / "in/a.jpg", quality=30)
    command = ["restore", "in", "-o", "out", "-m", "x.pth"]
    assert main.main([*command, "--report", "in"]) == 2
    assert main.main([*command, "--compare", "in/a.jpg"]) == 2
    err = capsys.readouterr().err
    assert "in: is a folder; give a file" in err
    assert "in/a.jpg: is a file; give a folder" in err
    assert not Path("out").exists()


def test_a_lossless_animation_is_copied(folder, capsys):
    frames = [Image.new("L", (9, 9), value) for value in (0, 100)]
    frames[0].save(folder / "in/a.gif", save_all=True, append_images=frames[1:])
    assert run("in", "-o", "out") == 0
    assert "in/a.gif: lossless GIF of 2 frames, copied\n" in capsys.readouterr().err
    assert (folder / "out/a.gif").read_bytes() == (folder / "in/a.gif").read_bytes()
    assert run("in", "-o", "forced", "--force") == 1
    assert "in/a.gif: holds 2 frames" in capsys.readouterr().err


@pytest.mark.parametrize("blanks", [65_250, 65_400])
def test_xmp_that_the_mark_makes_too_large_is_told(blanks, folder, capsys):
    """JPEG holds 65,504 bytes of XMP: the packet alone fits, with the mark it does not."""
    head = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="r">'
    xmp = head + b" " * (blanks - len(head)) + b"</rdf:RDF></x:xmpmeta>"
    picture(folder / "in/a.jpg", quality=30, xmp=xmp)
    assert run("in", "-o", "out", "--format", "jpeg") == 0
    err = capsys.readouterr().err
    with Image.open("out/a.jpg") as image:
        kept = xmp[:2000] in image.info["xmp"]
    assert kept is not ("dropped XMP" in err)
    assert run("in", "-o", "out", "--format", "jpeg") == 0
    assert "0 restored, 0 copied, 1 skipped" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (["--report", "in/a.png"], "in/a.png: the name must end in .html or .htm"),
        (["--report", "in/none"], "in/none: the name must end in .html or .htm"),
        (["--compare", "out"], "out/a.jpg.png is an input or a result"),
        (["--compare", "in"], "in/b.jpg.png is an input or a result"),
    ],
)
def test_pages_and_strips_replace_no_picture(flags, reason, folder, capsys):
    for name in ("a.jpg", "a.png", "b.jpg", "b.jpg.png"):
        picture(folder / "in" / name)
    before = {path: path.read_bytes() for path in (folder / "in").iterdir()}
    assert main.main(["restore", "in", "-o", "out", "-m", "x.pth", *flags]) == 2
    assert reason in capsys.readouterr().err
    assert {path: path.read_bytes() for path in (folder / "in").iterdir()} == before


def test_a_line_break_in_a_name_makes_no_second_line(folder, capsys):
    picture(folder / "in/a\nb.jpg", quality=30)
    assert run("in", "-o", "out") == 0
    assert "in/a\\nb.jpg: JPEG quality 30, restored to out/a\\nb.png\n" in capsys.readouterr().err
    assert written() == ["a\nb.png"]


def test_errors_of_the_system_name_the_file(folder, capsys, monkeypatch):
    def denied(job, *_):
        raise PermissionError(errno.EACCES, "Permission denied", str(job.restored))

    picture(folder / "in/a.jpg", quality=30)
    monkeypatch.setattr(restore, "begin_job", denied)
    assert run("in", "-o", "out") == 1
    assert "error: out/a.png: Permission denied\n" in capsys.readouterr().err


def test_a_closed_standard_input_is_one_line(folder, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin", None)
    assert run("-", "-o", "out.png") == 1
    assert "error: standard input: it is closed\n" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["a.png", "a.jpeg"])
def test_a_copy_of_another_format_than_its_name_is_told(name, folder, capsys):
    picture(folder / "in/a.jpg", quality=100)
    assert run("in/a.jpg", "-o", name) == 0
    told = f"{name} is a JPEG file, since copies keep their format"
    assert (told in capsys.readouterr().err) is (name == "a.png")
