"""The files of a visitor: what becomes of them, as in the command, and cancelling."""

import csv
import shutil
import threading
import time
import zipfile
from contextlib import suppress
from pathlib import Path
from secrets import token_hex

import pytest
from page_tools import photo, write_pictures
from PIL import Image

from cir_cli import restore
from cir_host.errors import UserError
from cir_model.restoring.on_disk import Outcome
from cir_page import session as sessions
from cir_page.engine import Engine, Settings
from cir_page.listing import status_line
from cir_page.session import Session


@pytest.fixture(scope="module")
def engine():
    return Engine()


@pytest.fixture
def session(tmp_path):
    return Session(tmp_path / "visitor")


def add(session, *paths):
    """Upload copies of files."""
    for path in paths:
        upload = session.folder.with_name(f"uploaded_{token_hex(8)}")
        session.add(Path(shutil.copy(path, upload)), path.name)


def run(session, engine, settings=None):
    session.settings = settings or Settings()
    session.start()
    for _ in session.run(engine):
        pass


class Blocked:
    """An engine that waits within its first file until the test lets it go on."""

    def __init__(self):
        self.reached, self.go_on = threading.Event(), threading.Event()
        self.restored = []

    def restore(self, data, where, settings, watch):
        watch(0.0)
        self.reached.set()
        assert self.go_on.wait(30)
        watch(0.5)
        self.restored.append(where)
        return Outcome("copied", "lossless PNG", data)


def test_results_and_messages_are_those_of_the_command(
    session, engine, tmp_path, monkeypatch, capsys
):
    folder = write_pictures(tmp_path / "in")
    monkeypatch.chdir(folder)
    files = sorted(path for path in folder.iterdir())
    add(session, *files)
    states = [item.state for item in session.items]
    assert states == ["failed", "ready", "ready", "ready", "failed", "ready"]
    run(session, engine)
    assert restore.run([*(path.name for path in files), "-o", str(tmp_path / "out")]) == 1
    told = capsys.readouterr().err.splitlines()
    written = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    results = {item.result.name: item.result.read_bytes() for item in session.items if item.result}
    assert sorted(results) == ["half.png", "plain.png", "screenshot.png", "turned (1).png"]
    assert results == written
    for item in session.items:
        assert all(f"warning: {item.name}: {warning}" in told for warning in item.warnings)
        if item.state == "failed":
            assert f"error: {item.line}" in told
        else:
            line = item.line.replace(sessions.FORCE, "--force restores it")
            line = line.replace("restored to ", f"restored to {tmp_path}/out/")
            assert f"{item.name}: {line}" in told
    assert session.summary.split(";")[0] == told[-1].split(";")[0]
    assert {item.name for item in session.items if item.warnings} == {"half.jpg"}


@pytest.mark.parametrize(("file_format", "best"), [("webp", False), ("jpeg", True)])
def test_settings_reach_the_result(session, engine, tmp_path, file_format, best):
    folder = write_pictures(tmp_path / "in")
    add(session, folder / "turned (1).jpg", folder / "screenshot.png")
    strength = None if best else 0.9  # the command refuses one for the weights of Best
    settings = Settings(best, file_format, strength, consistency=False, force=True)
    run(session, engine, settings)
    out = tmp_path / "out"
    flags = ["--no-consistency", "--force", "--format", file_format]
    flags += ["--best"] if best else ["--strength", "0.9"]
    restore.run(
        [str(folder / "turned (1).jpg"), str(folder / "screenshot.png"), *flags, "-o", str(out)]
    )
    written = {path.name: path.read_bytes() for path in out.iterdir()}
    assert {item.result.name: item.result.read_bytes() for item in session.items} == written
    assert len(written) == 2


def test_only_files_that_need_it_are_restored_again(session, tmp_path):
    folder = write_pictures(tmp_path / "in")
    add(session, folder / "plain.jpg")
    engine = Blocked()
    engine.go_on.set()
    run(session, engine)
    add(session, folder / "turned (1).jpg")
    run(session, engine)
    assert engine.restored == ["plain.jpg", "turned (1).jpg"]
    first = session.items[0].result
    photo().save(tmp_path / "plain.png")
    add(session, tmp_path / "plain.png")  # whose copy gets the name of the first result
    run(session, engine, Settings(format="png"))
    assert len({item.result for item in session.items}) == 3
    summary = session.summary
    run(session, engine, Settings(format="png"))
    assert (len(engine.restored), session.summary) == (4, summary)
    run(session, engine, Settings(format="webp"))
    assert engine.restored[-3:] == ["plain.jpg", "turned (1).jpg", "plain.png"]
    assert first.exists()


def test_a_picture_is_shown_before_and_after(session, engine, tmp_path):
    folder = write_pictures(tmp_path / "in")
    add(session, folder / "screenshot.png", folder / "turned (1).jpg")
    run(session, engine)
    assert session.shown is session.items[1]
    with Image.open(session.shown.before) as before, Image.open(session.shown.result) as after:
        assert before.format == "PNG"
        assert before.size == after.size == (64, 96)  # upright
        with Image.open(folder / "turned (1).jpg") as jpeg:
            upright = jpeg.convert("RGB").transpose(Image.Transpose.ROTATE_270)
        assert before.tobytes() == upright.tobytes()


@pytest.fixture
def blocked(session, tmp_path):
    """A run of two files that is within the first one, and its engine."""
    folder = write_pictures(tmp_path / "in")
    add(session, folder / "plain.jpg", folder / "half.jpg")
    engine = Blocked()
    session.start()
    progress = session.run(engine)
    next(progress)
    assert engine.reached.wait(30)
    yield progress, engine
    engine.go_on.set()


def test_cancelling_ends_the_file_and_those_that_wait(session, blocked):
    progress, engine = blocked
    session.stop()
    assert [item.state for item in session.items] == ["restoring", "cancelled"]
    assert status_line(session, lambda item: None) == "Cancelling plain.jpg"
    engine.go_on.set()
    for _ in progress:
        pass
    assert [item.state for item in session.items] == ["cancelled", "cancelled"]
    assert engine.restored == []
    assert not session.busy
    run(session, engine)  # and it can begin again
    assert [item.state for item in session.items] == ["copied", "copied"]


def test_a_closed_page_stops_its_job(session, blocked):
    progress, engine = blocked
    session.close()
    engine.go_on.set()
    for _ in progress:
        pass
    assert engine.restored == []
    assert not session.folder.exists()


def test_progress_that_nobody_reads_stops_the_job(session, blocked):
    progress, engine = blocked
    progress.close()
    assert not session.busy
    engine.go_on.set()
    deadline = time.monotonic() + 30
    while session.items[0].state == "restoring" and time.monotonic() < deadline:
        time.sleep(0.01)
    assert [item.state for item in session.items] == ["cancelled", "cancelled"]
    assert engine.restored == []


def test_the_archive_holds_the_results_and_a_summary(session, engine, tmp_path):
    assert session.archive() is None
    folder = write_pictures(tmp_path / "in")
    add(session, folder / "plain.jpg", folder / "half.jpg", folder / "text.jpg")
    run(session, engine)
    with zipfile.ZipFile(session.archive()) as file:
        assert sorted(file.namelist()) == ["half.png", "plain.png", "summary.csv"]
        assert file.read("plain.png") == session.items[0].result.read_bytes()
        rows = list(csv.DictReader(file.read("summary.csv").decode().splitlines()))
    assert [row["state"] for row in rows] == ["restored", "restored", "failed"]
    assert rows[0]["found"] == "JPEG quality 20, blocks from the corner"
    assert "missing and grey" in rows[1]["warnings"]
    assert rows[2]["message"].startswith("text.jpg: cannot be read")


@pytest.mark.parametrize(
    ("given", "taken"),
    [
        ("a.jpg", "a (2).jpg"),
        ("C:\\photos\\b.jpg", "b.jpg"),
        ("../../etc/passwd", "passwd"),
        ("..", "file"),
        ("", "file"),
    ],
)
def test_names_are_distinct_and_without_folders(session, tmp_path, given, taken):
    photo().save(tmp_path / "upload", "JPEG")
    shutil.copy(tmp_path / "upload", tmp_path / "first")
    session.add(tmp_path / "first", "a.jpg")
    assert session.add(tmp_path / "upload", given).name == taken


def test_too_large_files_are_refused_and_the_others_taken(session, tmp_path, monkeypatch):
    folder = write_pictures(tmp_path / "in")
    monkeypatch.setattr(sessions, "LARGEST_UPLOAD", (folder / "plain.jpg").stat().st_size)
    add(session, folder / "turned (1).jpg", folder / "plain.jpg")
    large, fitting = session.items
    assert (large.state, fitting.state) == ("failed", "ready")
    assert large.line.startswith("turned (1).jpg: files of more than 0 MB are not taken")
    assert not large.source.exists()


def test_unexpected_errors_are_one_line_and_the_others_go_on(session, tmp_path):
    class Broken(Blocked):
        def restore(self, data, where, settings, watch):
            if where == "plain.jpg":
                raise RuntimeError("first\nsecond")
            if where == "half.jpg":
                raise UserError("half.jpg: is damaged")
            return super().restore(data, where, settings, watch)

    engine = Broken()
    engine.go_on.set()
    folder = write_pictures(tmp_path / "in")
    add(session, folder / "plain.jpg", folder / "half.jpg", folder / "screenshot.png")
    run(session, engine)
    lines = [item.line for item in session.items]
    assert lines[0] == "plain.jpg: RuntimeError: first second"
    assert lines[1] == "half.jpg: is damaged"
    assert [item.state for item in session.items] == ["failed", "failed", "copied"]
    assert session.summary.startswith("0 restored, 1 copied, 0 skipped, 2 failed")


def test_clearing_deletes_the_files(session, engine, tmp_path):
    add(session, write_pictures(tmp_path / "in") / "plain.jpg")
    run(session, engine)
    session.archive()
    session.clear()
    assert list(session.folder.iterdir()) == []
    assert session.items == []
    with suppress(StopIteration):
        next(session.run(engine))
    assert session.summary == ""


def test_the_time_of_a_file_is_that_of_its_settings(session, tmp_path):
    class Known:
        def seconds(self, pixels, best):
            return 10.0 if best else 1.0

    folder = write_pictures(tmp_path / "in")
    add(session, folder / "plain.jpg", folder / "screenshot.png")
    jpeg, lossless = session.items
    assert (session.seconds(jpeg, Known()), session.seconds(lossless, Known())) == (1, 0)
    session.start()
    session.settings = Settings(best=True, force=True)  # for the next run
    assert (session.seconds(jpeg, Known()), session.seconds(lossless, Known())) == (1, 0)
    session.stop()
    assert (session.seconds(jpeg, Known()), session.seconds(lossless, Known())) == (10, 10)


def test_what_is_to_be_restored_depends_on_the_settings(session, engine, tmp_path):
    folder = write_pictures(tmp_path / "in")
    clear = photo()
    clear.putalpha(128)
    clear.save(folder / "alpha.webp", quality=50)
    add(session, folder / "plain.jpg", folder / "alpha.webp", folder / "text.jpg")
    assert list(session.to_restore()) == [0, 1]
    run(session, engine, Settings(format="jpeg"))
    assert [item.state for item in session.items] == ["restored", "failed", "failed"]
    assert "JPEG cannot hold its alpha" in session.items[1].line
    assert not session.to_restore()  # the same error again
    session.settings = Settings()
    assert list(session.to_restore()) == [0, 1]
