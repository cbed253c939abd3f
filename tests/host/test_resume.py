"""Resuming: killed runs, other devices, and states that cannot be used."""

import re
import shutil
import subprocess
import sys
import time

import basicsr.train
import pytest
import torch
from host_tools import (
    basicsr_log,
    checkpoints,
    environment,
    run_here,
    run_python,
    script,
    test_options,
    train_options,
    write_pairs,
)

from cir_host.errors import UserError


def test_a_killed_stock_run_resumes_and_tests(tmp_path):
    write_pairs(tmp_path)
    options = train_options(tmp_path)
    options["train"]["total_iter"] = 10**6
    options["train"]["scheduler"]["periods"] = [10**6]
    options["val"]["save_img"] = True
    states = tmp_path / "experiments/tiny/training_states"
    with subprocess.Popen(
        [sys.executable, *script(tmp_path, options)],
        cwd=tmp_path,
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        while len(list(states.glob("*.state"))) < 3 and process.poll() is None:
            time.sleep(0.02)
        assert process.poll() is None
        process.kill()
    reached = checkpoints(tmp_path)[-1]
    options["train"]["total_iter"] = total = reached + 6
    resumed = run_python(script(tmp_path, options, "--auto_resume"), tmp_path)
    started = re.search(r"Resuming training from epoch: \d+, iter: (\d+)\.", resumed.stderr)
    assert started is not None
    assert int(started[1]) in (reached, reached - 4)  # the newest may have been cut short
    assert checkpoints(tmp_path)[-1] == reached + 4
    assert (tmp_path / f"experiments/tiny/visualization/000/000_{total}.png").is_file()
    assert not list((tmp_path / "experiments").glob("*_archived_*"))

    checkpoint = tmp_path / "experiments/tiny/models/net_g_latest.pth"
    tested = run_python(
        script(tmp_path, test_options(tmp_path, checkpoint), command="test"), tmp_path
    )
    assert "# psnr: " in tested.stderr
    assert len(list((tmp_path / "results/tiny_test/visualization/val").iterdir())) == 2


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory):
    """A folder with a run of 12 iterations that saved states 4, 8 and 12."""
    folder = tmp_path_factory.mktemp("finished")
    write_pairs(folder)
    with pytest.MonkeyPatch.context() as monkeypatch:
        run_here(monkeypatch, folder, train_options(folder))
    return folder


@pytest.fixture
def run(finished_run, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(finished_run, folder)
    return folder


def parsed(folder, name="tiny", auto_resume=False, resume_state=None):
    """What BasicSR's parser hands to ``load_resume_state``, as far as it is read."""
    root = folder / "experiments" / name
    return {
        "name": name,
        "auto_resume": auto_resume,
        "network_g": {},
        "path": {
            "resume_state": resume_state and str(resume_state),
            "models": str(root / "models"),
            "training_states": str(root / "training_states"),
        },
    }


def state_file(folder, name, run="tiny"):
    return folder / "experiments" / run / "training_states" / name


def load(opt):
    return basicsr.train.load_resume_state(opt)


def test_a_named_state_resumes_without_a_gpu(run, monkeypatch):
    options = train_options(run)
    options["path"]["resume_state"] = str(state_file(run, "8.state"))
    options["train"]["total_iter"] = 16
    with basicsr_log() as log:
        run_here(monkeypatch, run, options)
    assert any("Resuming training from epoch: 1, iter: 8." in message for message in log)
    assert checkpoints(run) == [4, 8, 12, 16]


def test_without_a_state_the_run_starts_fresh(tmp_path):
    assert load(parsed(tmp_path)) is None
    assert load(parsed(tmp_path, auto_resume=True)) is None


def test_auto_resume_takes_the_newest_state_of_its_own_root(run, tmp_path, monkeypatch):
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(run / "experiments", elsewhere / "experiments")
    state_file(elsewhere, "12.state").rename(state_file(elsewhere, "99.state"))
    monkeypatch.chdir(elsewhere)  # the folder that BasicSR looks into
    for name in ("100_backup.state", "latest.state", "8.state.tmp"):
        state_file(run, name).write_bytes(b"")
    opt = parsed(run, auto_resume=True)
    assert load(opt)["iter"] == 12
    assert opt["path"]["resume_state"] == str(state_file(run, "12.state"))
    assert opt["path"]["pretrain_network_g"] == str(run / "experiments/tiny/models/net_g_12.pth")
    assert opt["resumed_from"] == {"epoch": 2, "iter": 12, "samples": 24}


def cut(file):
    file.write_bytes(file.read_bytes()[:-200])


def test_auto_resume_passes_over_a_state_cut_short(run):
    cut(state_file(run, "12.state"))
    with basicsr_log() as log:
        assert load(parsed(run, auto_resume=True))["iter"] == 8
    assert len(log) == 1
    assert "12.state" in log[0]
    assert "resuming from 8.state" in log[0]


def test_auto_resume_does_not_start_over_where_no_state_can_be_used(run):
    for name in ("4.state", "8.state", "12.state"):
        cut(state_file(run, name))
    with pytest.raises(UserError, match=r"12\.state: damaged"):
        load(parsed(run, auto_resume=True))


@pytest.mark.parametrize("content", [b"", b"<html>not found</html>", "cut"])
def test_a_damaged_state_is_named(run, content):
    file = state_file(run, "8.state")
    cut(file) if content == "cut" else file.write_bytes(content)
    with pytest.raises(UserError, match=r"8\.state: damaged") as caught:
        load(parsed(run, resume_state=file))
    assert "\n" not in str(caught.value)


def test_a_missing_state_is_named(run):
    with pytest.raises(UserError, match=r"9\.state does not exist"):
        load(parsed(run, resume_state=state_file(run, "9.state")))


def test_a_network_given_as_state_is_refused(run):
    network = run / "experiments/tiny/models/net_g_8.pth"
    with pytest.raises(UserError, match=r"net_g_8\.pth: not a training state"):
        load(parsed(run, resume_state=network))


@pytest.mark.parametrize("folder_exists", [True, False])
def test_a_state_of_another_name_is_refused(run, folder_exists):
    if folder_exists:
        (run / "experiments/new/models").mkdir(parents=True)
    opt = parsed(run, name="new", resume_state=state_file(run, "8.state"))
    with pytest.raises(UserError, match=r"experiments/new/models/net_g_8\.pth.* is 'new'"):
        load(opt)


def test_a_network_that_is_not_resumed_may_be_missing(run):
    opt = parsed(run, resume_state=state_file(run, "8.state"))
    opt["network_other"] = {}
    with pytest.raises(UserError, match=r"net_other_8\.pth"):
        load(opt)
    opt["path"]["ignore_resume_networks"] = ["network_other"]
    assert load(opt)["iter"] == 8


def test_a_state_is_read_onto_the_cpu_without_running_code(run, monkeypatch):
    calls = []
    read = torch.load
    monkeypatch.setattr(torch, "load", lambda *a, **k: calls.append(k) or read(*a, **k))
    load(parsed(run, resume_state=state_file(run, "8.state")))
    assert len(calls) == 2  # the state and, to see whether it is whole, the network
    assert all(c == {"map_location": "cpu", "weights_only": True} for c in calls)
