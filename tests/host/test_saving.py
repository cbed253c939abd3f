"""Checkpoints on disk: whole or not there, and as many as wanted."""

import errno
import os
import resource
from contextlib import contextmanager
from threading import Thread

import pytest
import torch
from host_tools import basicsr_log, checkpoints, run_here, train_options, write_pairs

from cir_host.errors import OptionsError, UserError
from cir_host.files import write_bytes_whole, write_whole


@pytest.fixture
def options(tmp_path):
    write_pairs(tmp_path, train=4, val=1)
    made = train_options(tmp_path)
    made["logger"]["save_checkpoint_freq"] = 2
    return made


@contextmanager
def full_disk(room):
    """No file can grow beyond ``room`` bytes, as if the disk ended there."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
    file = tmp_path / "a.pth"
    write_whole(file, lambda stream: stream.write(b"old"))
    with full_disk(1000), pytest.raises(OSError, match="File too large"):
        write_whole(file, lambda stream: stream.write(b"new" * 1000))

    def fail(stream):
        stream.write(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_whole(file, fail)
    assert file.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [file]


def write_in_a_thread(file, content):
    thread = Thread(target=write_bytes_whole, args=(file, content))
    thread.start()
    thread.join()


def write_in_a_process(file, content):
    """The child of a fork has the thread id of its parent."""
    if child := os.fork():
        assert os.waitpid(child, 0)[1] == 0
        return
    try:
        write_bytes_whole(file, content)
        os._exit(0)
    finally:
        os._exit(1)


@pytest.mark.parametrize("write", [write_in_a_thread, write_in_a_process])
def test_two_writers_of_one_file_leave_a_whole_one(tmp_path, write):
    file = tmp_path / ("a" * 251 + ".pth")

    def interrupted(stream):
        stream.write(b"a" * 10_000)
        write(file, b"b" * 30_000)
        assert file.read_bytes() == b"b" * 30_000
        stream.write(b"a" * 10_000)

    write_whole(file, interrupted)
    assert file.read_bytes() == b"a" * 20_000
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("links", [True, False])
def test_a_file_is_created_but_not_replaced(tmp_path, monkeypatch, links):
    def refused(*_):
        raise PermissionError(errno.EPERM, "Operation not permitted")

    if not links:  # as on a memory card with FAT
        monkeypatch.setattr(os, "link", refused)
    write_bytes_whole(tmp_path / "a.png", b"first", replace=False)
    (tmp_path / "b.png").symlink_to("nowhere")
    for name in ("a.png", "b.png"):
        with pytest.raises(FileExistsError):
            write_bytes_whole(tmp_path / name, b"second", replace=False)
    assert (tmp_path / "a.png").read_bytes() == b"first"
    assert {path.name for path in tmp_path.iterdir()} == {"a.png", "b.png"}


def test_a_full_disk_costs_no_earlier_checkpoint(tmp_path, options, monkeypatch):
    """The disk is full for the states, then for the networks too; it is said, and training ends."""
    run_here(monkeypatch, tmp_path, options)
    run = tmp_path / "experiments/tiny"
    kept = {f: f.read_bytes() for f in run.rglob("*.*t*") if f.suffix in (".pth", ".state")}
    options["train"]["total_iter"] = 16
    sizes = [(run / f).stat().st_size for f in ("models/net_g_2.pth", "training_states/2.state")]
    assert sizes[0] < sizes[1]
    with basicsr_log() as log, full_disk(sum(sizes) // 2):
        run_here(monkeypatch, tmp_path, options, "--auto_resume")
    failed = [message for message in log if "cannot be written" in message]
    assert len(failed) >= 2
    assert "14.state: cannot be written" in failed[0]
    assert {f: f.read_bytes() for f in kept if f.name != "net_g_latest.pth"} == {
        f: content for f, content in kept.items() if f.name != "net_g_latest.pth"
    }
    with full_disk(sizes[0] // 2), pytest.raises(UserError, match=r"net_g_latest\.pth: cannot be"):
        options["train"]["total_iter"] = 18
        run_here(monkeypatch, tmp_path, options, "--auto_resume")
    torch.load(run / "models/net_g_latest.pth", weights_only=True)
    assert checkpoints(tmp_path)[-1] == 12
    assert not list(run.rglob("*.part"))


def test_the_last_checkpoints_are_kept(tmp_path, options, monkeypatch):
    options["logger"]["keep_checkpoints"] = 2
    run_here(monkeypatch, tmp_path, options)
    assert checkpoints(tmp_path) == [10, 12]
    models = {f.name for f in (tmp_path / "experiments/tiny/models").iterdir()}
    assert models == {"net_g_10.pth", "net_g_12.pth", "net_g_latest.pth"}


def test_lengthened_periods_hold_in_a_resumed_run(tmp_path, options, monkeypatch):
    options["train"]["scheduler"]["periods"] = [12]
    run_here(monkeypatch, tmp_path, options)
    options["train"]["total_iter"] = 16
    with pytest.raises(OptionsError, match="they sum to 12, less than"):
        run_here(monkeypatch, tmp_path, options, "--auto_resume")
    options["train"]["scheduler"].update(periods=[12, 4], restart_weights=[1, 1])
    run_here(monkeypatch, tmp_path, options, "--auto_resume")
    assert checkpoints(tmp_path)[-1] == 16


def test_a_state_of_another_model_is_refused(tmp_path, options, monkeypatch):
    run_here(monkeypatch, tmp_path, options)
    file = tmp_path / "experiments/tiny/training_states/12.state"
    state = torch.load(file, weights_only=True)
    state["optimizers"] *= 2
    torch.save(state, file)
    with pytest.raises(UserError, match="holds 2 optimizers, but SRModel has 1"):
        run_here(monkeypatch, tmp_path, options, "--auto_resume")
