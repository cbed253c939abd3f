"""Reading and writing in threads beside the network: nothing is lost, and the order stays."""

import shutil
import threading
from pathlib import Path

import pytest
from command_tools import photographs
from PIL import Image

from cir_cli import restore
from cir_host.errors import UserError
from cir_model.restoring import on_disk

NAMES = ("a", "b", "c", "d")


@pytest.fixture
def passed(tmp_path, monkeypatch, identity):
    """Four JPEGs in the folder ``in``; the hooks that are called before each passes the network."""
    monkeypatch.chdir(tmp_path)
    original = next(photographs(tmp_path / "originals").iterdir())
    Path("in").mkdir()
    for name in NAMES:
        Image.open(original).convert("RGB").save(f"in/{name}.jpg", quality=20)
    hooks = []

    def before(*_):  # what a hook returns would become the input
        if hooks:
            hooks.pop(0)()

    identity.register_forward_pre_hook(before)
    return hooks


def run(*arguments):
    return restore.run(["in", "-o", "out", "-m", "weights.pth", *arguments])


def spy(monkeypatch, name, call):
    """Call ``call(path)`` before a function of the module that reads and writes files."""
    real = getattr(on_disk, name)

    def called(*arguments, **keywords):
        call(Path(next(argument for argument in arguments if not isinstance(argument, bytes))))
        return real(*arguments, **keywords)

    monkeypatch.setattr(on_disk, name, called)


def must_come(event):
    assert event.wait(60), "nothing ran beside the network"


def test_the_next_file_is_read_while_the_network_runs(passed, monkeypatch):
    is_read = threading.Event()
    spy(monkeypatch, "read", lambda path: path.name == "b.jpg" and is_read.set())
    passed.append(lambda: must_come(is_read))
    assert run() == 0


def test_the_last_file_is_written_while_the_network_runs(passed, monkeypatch):
    runs = threading.Event()
    spy(monkeypatch, "write_file", lambda path: path.name == "a.png" and must_come(runs))
    passed.extend([lambda: None, runs.set])
    assert run() == 0


@pytest.mark.parametrize("same", [False, True])
def test_two_batches_that_write_one_name_at_the_same_time_lose_nothing(passed, capsys, same):
    for name in ("others", "out"):
        Path(name).mkdir()
    Image.new("L", (16, 16)).save("others/b.jpg", quality=20)
    folder = "in" if same else "others"
    assert restore.run([folder, "-o", "elsewhere", "-m", "weights.pth"]) == 0
    passed.extend([lambda: None, lambda: shutil.copy("elsewhere/b.png", "out/b.png")])
    assert run() == 0
    own = list(Path("out").glob("b.*.png"))
    err = capsys.readouterr().err
    if same:
        assert "in/b.jpg: skipped, out/b.png was made from it" in err
        assert not own
        return
    assert f"in/b.jpg: out/b.png exists and was not made from it; written to {own[0]}" in err
    assert [Image.open(path).size for path in ("out/b.png", *own)] == [(16, 16), (64, 64)]


def test_a_file_that_appears_meanwhile_is_not_overwritten(passed, capsys):
    passed.append(lambda: Path("x.png").write_bytes(b"of another program"))
    assert restore.run(["in/a.jpg", "-o", "x.png", "-m", "weights.pth"]) == 1
    assert "error: x.png: exists; give --overwrite to replace it" in capsys.readouterr().err
    passed.append(lambda: Path("y.png").write_bytes(b"of another program"))
    assert restore.run(["in/a.jpg", "-o", "y.png", "-m", "weights.pth", "--overwrite"]) == 0
    assert Path("x.png").read_bytes() == b"of another program"
    assert Image.open("y.png").size == (64, 64)


def test_large_pictures_are_read_and_written_in_their_turn(passed, monkeypatch):
    monkeypatch.setattr(on_disk, "LARGEST_AHEAD", 1)
    monkeypatch.setattr(restore, "LARGEST_AHEAD", 1)
    order = []
    spy(monkeypatch, "read", lambda path: order.append(path.name))
    spy(monkeypatch, "write_file", lambda path: order.append(path.name))
    assert run() == 0
    assert order == [f"{name}{suffix}" for name in NAMES for suffix in (".jpg", ".png")]


def test_failures_of_all_steps_are_reported_in_order(passed, monkeypatch, capsys):
    Path("in/a.jpg").write_bytes(b"no image")

    def full(path):
        if path.name == "b.png":
            raise UserError(f"{path}: cannot be written: the disk is full")

    def fail():
        raise RuntimeError("the network fails")

    spy(monkeypatch, "write_file", full)
    passed.extend([lambda: None, fail])
    assert run("--report", "page.html") == 1
    lines = capsys.readouterr().err.splitlines()
    told = [
        line for line in lines if any(f"in/{n}.jpg" in line or f"/{n}.png" in line for n in NAMES)
    ]
    assert len(told) == 4
    assert told[0].startswith("error: in/a.jpg")
    assert told[1] == "error: out/b.png: cannot be written: the disk is full"
    assert told[2] == "error: in/c.jpg: RuntimeError: the network fails"
    assert "in/d.jpg: JPEG quality 20, restored to out/d.png" in told[3]
    assert "1 restored, 0 copied, 0 skipped, 3 failed" in lines[-1]
    assert [path.name for path in Path("out").iterdir()] == ["d.png"]


def test_an_interrupt_loses_no_result_of_the_network(passed, capsys):
    def interrupt():
        raise KeyboardInterrupt

    passed.extend([lambda: None, interrupt])
    with pytest.raises(KeyboardInterrupt):
        run("--report", "page.html")
    assert "in/a.jpg: JPEG quality 20, restored to out/a.png" in capsys.readouterr().err
    assert "in/a.jpg" in Path("page.html").read_text(encoding="utf-8")
    assert [path.name for path in Path("out").iterdir()] == ["a.png"]


def test_existing_results_are_not_decoded_again(passed, monkeypatch, capsys):
    assert run() == 0
    Path("out/c.png").unlink()
    decoded = []
    spy(monkeypatch, "read", lambda path: decoded.append(path.name))
    assert run() == 0
    assert decoded == ["c.jpg"]
    assert "1 restored, 0 copied, 3 skipped" in capsys.readouterr().err
