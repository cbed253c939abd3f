"""Which files are read and what the outputs are called."""

from pathlib import Path, PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cir_cli.restore_jobs import _restored_names, list_jobs
from cir_host.errors import UserError


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
    assert job.streams
    (job,) = list_jobs(["a.jpg"], "folder", "png")
    assert job.restored == Path("folder/a.png")


@pytest.mark.parametrize(
    ("inputs", "output", "reason"),
    [
        (["missing.jpg"], "out", "missing.jpg: no such file"),
        (["none*.jpg"], "out", "no file matches"),
        (["p"], "p", "is the input folder"),
        (["p"], "p/a.jpg", "is a file"),
        (["empty"], "out", "no pictures"),
        (["-", "p"], "out", "only input"),
        (["p"], "-", "single file"),
        (["p/a.jpg"], "p/a.jpg", "is the input"),
        (["-"], "out.xyz", "give a file with one of"),
        (["p/a.jpg", "q/p/a.jpg"], ".", "overwritten"),
    ],
)
def test_what_cannot_be_done_is_one_line(inputs, output, reason, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    touch(tmp_path, "p/a.jpg", "q/p/a.jpg", "empty/t.txt")
    with pytest.raises(UserError, match=reason) as caught:
        list_jobs(inputs, output, "same")
    assert "\n" not in str(caught.value)


stems = st.sampled_from(["a", "A", "a.jpg", "a.png", "a.jpg.png", "a.jpg.1", "b"])
suffixes = st.sampled_from([".jpg", ".png", ".JPG", ".tif", ""])


@given(
    st.lists(
        st.tuples(stems, suffixes), min_size=1, max_size=12, unique_by=lambda p: "".join(p).lower()
    ),
    st.sampled_from(["png", "same"]),
)
def test_no_two_outputs_are_alike(parts, wanted):
    """Neither two restored pictures, nor one and the copy of another input; in any order."""
    names = [PurePosixPath(stem + suffix) for stem, suffix in parts]
    formats = ["jpeg" if wanted == "same" and n.suffix.lower() == ".jpg" else "png" for n in names]
    restored = _restored_names(names, formats, wanted)
    folded = [str(name).casefold() for name in restored]
    assert len(set(folded)) == len(folded)
    for index, name in enumerate(names):
        others = folded[:index] + folded[index + 1 :]
        assert str(name).casefold() not in others
    backwards = _restored_names(names[::-1], formats[::-1], wanted)
    assert backwards[::-1] == restored
