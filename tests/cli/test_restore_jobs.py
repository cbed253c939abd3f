"""Which files are read and what the outputs are called."""

import os
import unicodedata
from pathlib import Path, PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cir_cli.restore_jobs import LeftOut, list_jobs, streams
from cir_host.errors import UserError
from cir_host.files import part_of
from cir_model.restoring.result_names import name_results


def touch(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    return folder


def outputs(inputs, output, wanted="png"):
    jobs = list_jobs([str(entry) for entry in inputs], str(output), wanted)
    return {job.source.as_posix(): job.restored.relative_to(output).as_posix() for job in jobs}


def test_names_keep_their_folders_and_never_collide(tmp_path):
    photos = touch(
        tmp_path / "photos", "a.jpg", "a.png", "b.jpg", "sub/b.JPG", "sub/.c.jpg", "t.txt"
    )
    found = outputs([photos], tmp_path / "out")
    short = {Path(source).relative_to(photos).as_posix(): name for source, name in found.items()}
    assert short == {
        "a.jpg": "a.jpg.png",
        "a.png": "a.png.png",
        "b.jpg": "b.png",
        "sub/b.JPG": "sub/b.png",
    }


def test_same_keeps_the_name(tmp_path):
    photos = touch(tmp_path / "p", "a.jpg", "a.png", "b.bmp", "c.tiff")
    names = sorted(outputs([photos], tmp_path / "out", "same").values())
    assert names == ["a.jpg", "a.png", "b.png", "c.tiff"]
    formats = {job.format for job in list_jobs([str(photos)], str(tmp_path / "out"), "same")}
    assert formats == {"jpeg", "png", "tiff"}


def test_inputs_of_one_name_get_their_folders(tmp_path):
    first = touch(tmp_path / "one", "x.jpg", "only.jpg")
    second = touch(tmp_path / "two", "x.jpg")
    names = set(outputs([first, second], tmp_path / "out").values())
    assert names == {"one/x.png", "two/x.png", "only.png"}


def test_patterns_files_and_doubles(tmp_path):
    photos = touch(tmp_path / "p", "a.jpg", "s/b.jpg", "s/c.webp")
    found = outputs([photos / "**" / "*.jpg", photos / "a.jpg"], tmp_path / "out")
    assert set(found.values()) == {"a.png", "s/b.png"}


def test_earlier_outputs_are_no_inputs(tmp_path):
    photos = touch(tmp_path / "p", "a.jpg", "restored/a.png")
    assert list(outputs([photos], photos / "restored").values()) == ["a.png"]


def test_file_to_file_and_streams(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    touch(tmp_path, "a.jpg")
    (job,) = list_jobs(["a.jpg"], "b.webp", "png")
    assert (job.restored, job.format) == (Path("b.webp"), "webp")
    (job,) = list_jobs(["-"], "-", "png")
    assert streams(job)
    (job,) = list_jobs(["a.jpg"], "folder", "png")
    assert job.restored == Path("folder/a.png")


@pytest.mark.parametrize(
    ("inputs", "output", "reason"),
    [
        (["missing.jpg"], "out", "missing.jpg: no such file"),
        (["none*.jpg"], "out", "no file matches"),
        (["p"], "p", "is also the input folder"),
        (["p"], "p/a.jpg", "is a file"),
        (["empty"], "out", "no images"),
        (["-", "p"], "out", "cannot be combined"),
        (["p"], "-", "single file"),
        (["p/a.jpg"], "p/a.jpg", "is also the input"),
        (["-"], "out.xyz", "the suffix names no format; use one of"),
        (["p/a.jpg", "q/p/a.jpg"], ".", "overwritten"),
    ],
)
def test_what_cannot_be_done_is_one_line(inputs, output, reason, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    touch(tmp_path, "p/a.jpg", "q/p/a.jpg", "empty/t.txt")
    with pytest.raises(UserError, match=reason) as caught:
        list_jobs(inputs, output, "same")
    assert "\n" not in str(caught.value)


alike = ["straße", "strasse", "e\u0301", "\u00e9", "n" * 251, "N" * 251, "n" * 250 + "m"]
stems = st.sampled_from(["a", "A", "a.jpg", "a.png", "a.jpg.png", "a.jpg.1", "a.JPG.1", *alike])
suffixes = st.sampled_from([".jpg", ".png", ".JPG", ".tif", ""])


def key(name):
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", str(name)).casefold())


@given(
    st.lists(st.tuples(stems, suffixes), min_size=1, max_size=12, unique=True),
    st.sampled_from(["png", "same"]),
)
def test_no_two_outputs_are_alike(parts, wanted):
    """Neither two restored pictures, nor one and the copy of another input; in any order."""
    names = [PurePosixPath(stem + suffix) for stem, suffix in parts]
    names = list(dict.fromkeys(names))
    results = name_results(names, wanted)
    restored, copied = ([getattr(r, kind) for r in results] for kind in ("restored", "copied"))
    for chosen in (restored, copied):
        assert len(set(map(key, chosen))) == len(chosen)
        assert all(len(os.fsencode(name.name)) <= 255 for name in chosen)
    for index, name in enumerate(restored):
        assert key(name) not in map(key, copied[:index] + copied[index + 1 :])
    assert name_results(names[::-1], wanted)[::-1] == results
    for name, copy in zip(names, copied, strict=True):
        assert copy == name or sum(key(other) == key(name) for other in names) > 1


def test_names_that_differ_in_case_get_outputs_that_differ_in_more(tmp_path):
    photos = touch(tmp_path / "p", "a.jpg", "a.JPG", "straße.jpg", "strasse.jpg")
    names = list(outputs([photos], tmp_path / "out").values())
    assert len({key(name) for name in names}) == 4


def test_everything_that_is_left_out_is_told(tmp_path, monkeypatch):
    photos = touch(tmp_path / "p", "a.jpg", "t.txt", "u.TXT", "x.heic", "none", ".h.jpg", "d/b.png")
    (photos / "photo").write_bytes(b"\xff\xd8\xff\xe0")
    part_of(photos / "a.jpg").write_bytes(b"\xff\xd8\xff\xe0")  # left by a killed run
    (photos / "linked").symlink_to(tmp_path)
    (photos / "gone.jpg").symlink_to(tmp_path / "nowhere")
    os.mkfifo(photos / "pipe.jpg")
    listed = os.scandir

    def denied(folder):
        if Path(folder).name == "d":
            raise PermissionError(13, "Permission denied", str(folder))
        return listed(folder)

    monkeypatch.setattr(os, "scandir", denied)
    left_out = LeftOut()
    jobs = list_jobs([str(photos)], str(tmp_path / "out"), "png", left_out)
    assert [job.source.name for job in jobs] == ["a.jpg", "photo"]
    assert left_out.lines() == [
        "files of other kinds: 4 (by suffix: 2 .txt, 1 without, 1 .heic)",
        "hidden files and folders: 2",
        f"linked folders (name them as inputs to restore them): 1 ({photos / 'linked'})",
        f"pipes and devices: 1 ({photos / 'pipe.jpg'})",
    ]
    assert left_out.unreadable == [
        f"{photos / 'gone.jpg'}: a link to a missing file",
        f"{photos / 'd'}: Permission denied",
    ]


@pytest.mark.parametrize("name", ["~x.jpg", "a*.jpg", "[a].jpg", "-"])
def test_paths_that_are_there_mean_themselves(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    touch(tmp_path, name, "ab.jpg")
    (job,) = list_jobs([f"./{name}" if name == "-" else name], "out", "png")
    assert job.source.name == name


def test_patterns_that_pathlib_refuses(tmp_path):
    photos = touch(tmp_path / "p", "a.jpg", "s/b.jpg")
    assert list(outputs([photos / "**.jpg"], tmp_path / "out").values()) == ["a.png"]


@pytest.mark.parametrize(
    ("inputs", "output", "reason"),
    [
        (["~nobody/x.jpg"], "out", "~nobody/x.jpg: no such file"),
        (["~nobody/*.jpg"], "out", "no file matches"),
        (["a.jpg"], "out.bmp", "the suffix names no format; use one of"),
        (["a.jpg", "b.jpg"], "out.png", "names a file"),
        (["."], "out.png", "names a file"),
        (["a.jpg"], "out.heic", "names no format"),
        (["."], "", "is empty"),
    ],
)
def test_paths_that_mean_nothing_are_one_line(inputs, output, reason, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    touch(tmp_path, "a.jpg", "b.jpg")
    with pytest.raises(UserError, match=reason):
        list_jobs(inputs, output, "png")


def test_a_file_and_a_link_to_it_get_the_name_of_the_file(tmp_path):
    photos = touch(tmp_path / "photos", "b.jpg", "d.jpg")
    (photos / "a.jpg").symlink_to("b.jpg")
    (photos / "e.jpg").symlink_to("d.jpg")
    found = outputs([photos], tmp_path / "out")
    assert sorted(found.values()) == ["b.png", "d.png"]
