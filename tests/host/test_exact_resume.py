"""A run that was stopped anywhere ends as one that never stopped, bit for bit, on two threads."""

import os
import shutil
import signal
import subprocess
import sys
import time
from functools import partial

import pytest
import torch
from command_tools import basicsr, photographs, train_options, write_options
from host_tools import basicsr_log, write_pairs
from host_tools import train_options as stock_options
from small_networks import SMALL
from training_tools import TOTAL, assert_equal, content, run_on, stopped_at

run = partial(run_on, 2)


def options(folder, **changes):
    """Random depth, two workers, two parts of a step, averaged weights, validation at 3 and 6.

    Crops and batches change after the second iteration.
    """
    return train_options(
        network_g={
            "type": "HFT",
            **SMALL["HFT"],
            "depths": [1, 1],
            "num_heads": [2, 2],
            "drop_path_rate": 0.5,
        },
        train__progressive=[
            {"iters": 2, "gt_size": 16, "batch_size_per_gpu": 2},
            {"iters": TOTAL - 2, "gt_size": 24, "batch_size_per_gpu": 1},
        ],
        datasets__train__num_worker_per_gpu=2,
        datasets__train__dataroot_gt=str(folder / "photos"),
        datasets__val__dataroot_gt=str(folder / "photos"),
        train__accum_iter=2,
        train__total_iter=TOTAL,
        train__scheduler__periods=[TOTAL],
        val__val_freq=3,
        val__save_best="psnr",
        logger__save_checkpoint_freq=1,
        **changes,
    )


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that was not stopped."""
    folder = tmp_path_factory.mktemp("whole")
    photographs(folder / "photos", size=24)
    return run(folder, options(folder))


@pytest.mark.parametrize("iteration", [1, 3])
def test_a_run_resumed_at_any_iteration_ends_the_same(whole, tmp_path, iteration):
    stopped_at(whole, iteration, tmp_path)
    resumed = run(tmp_path, options(whole.parents[1]), "--auto_resume")
    assert_equal(content(resumed), content(whole))
    assert (resumed / "metrics.csv").read_text() == (whole / "metrics.csv").read_text()
    best = content(whole)["state"]["best_metric_results"]["held_out"]["psnr"]
    assert best["iter"] in (3, 6)
    kept = torch.load(whole / "models/net_g_best.pth", weights_only=True)
    assert_equal(kept, content(whole, best["iter"])["network"])


def test_a_run_killed_between_save_and_validation_validates_when_resumed(
    whole, tmp_path, monkeypatch
):
    def killed(*_):
        raise KeyboardInterrupt

    made = options(whole.parents[1])
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr("cir_model.CIRModel.nondist_validation", killed)
        run(tmp_path, made)
    assert not (tmp_path / "experiments/run/metrics.csv").exists()
    resumed = run(tmp_path, made, "--auto_resume")
    assert_equal(content(resumed), content(whole))
    assert (resumed / "metrics.csv").read_text() == (whole / "metrics.csv").read_text()


def test_the_run_draws_random_numbers_that_the_resumed_one_needs(whole, tmp_path, monkeypatch):
    """Without the random states the end differs: the tests above would notice."""
    stopped_at(whole, 3, tmp_path)
    monkeypatch.setattr("cir_host.saving.set_random_states", lambda _: None)
    resumed = run(tmp_path, options(whole.parents[1]), "--auto_resume")
    ours, theirs = (content(r)["network"]["params"] for r in (resumed, whole))
    assert any(not torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_torn_network_or_state_falls_back_to_the_one_before(whole, tmp_path):
    copied = stopped_at(whole, 5, tmp_path)
    for file in ("training_states/5.state", "models/net_g_4.pth"):
        (copied / file).write_bytes((copied / file).read_bytes()[:-500])
    with basicsr_log() as log:
        resumed = run(tmp_path, options(whole.parents[1]), "--auto_resume")
    assert any("5.state" in line and "resuming from 3.state" in line for line in log)
    assert_equal(content(resumed), content(whole))


@pytest.mark.parametrize("last_signal", [signal.SIGKILL, signal.SIGTERM])
def test_a_run_ended_by_a_signal_to_all_its_processes_ends_the_same(
    whole, tmp_path, last_signal, monkeypatch
):
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    made = options(whole.parents[1])
    # what ends the run comes between two checkpoints
    made["logger"]["save_checkpoint_freq"] = 2 if last_signal == signal.SIGKILL else 100
    name = write_options(tmp_path / "options.yml", made)
    slow = (
        "import sys, time; from cir_model import CIRModel; step = CIRModel.optimize_parameters;"
        "CIRModel.optimize_parameters = lambda *a: (step(*a), time.sleep(0.5));"
        "from cir_cli.main import main; sys.exit(main())"
    )
    with subprocess.Popen(
        [sys.executable, "-c", slow, "train", "-opt", name],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        for line in process.stderr:
            if "iter:       4" in line:
                break
        time.sleep(0.1)
        os.killpg(process.pid, last_signal)
        rest = process.stderr.read()
    states = tmp_path / "experiments/run/training_states"
    if last_signal == signal.SIGTERM:
        assert process.returncode == 128 + signal.SIGTERM, rest
        assert "Stopped by SIGTERM after iteration" in rest
        assert "Traceback" not in rest
        assert len(list(states.iterdir())) == 1
    else:
        assert process.returncode == -signal.SIGKILL
    done = basicsr(tmp_path, "train", "-opt", name, "--auto_resume")
    assert done.returncode == 0, done.stderr
    ended = torch.load(tmp_path / "experiments/run/models/net_g_latest.pth", weights_only=True)
    assert_equal(ended, content(whole)["network"])


@pytest.mark.parametrize("workers", [0, 2])
def test_stock_models_and_data_sets_resume_exactly_too(tmp_path, workers):
    """Samples of BasicSR's data sets do not depend on the workers either."""
    write_pairs(tmp_path)
    made = stock_options(tmp_path)
    made["logger"]["save_checkpoint_freq"] = 1
    made["datasets"]["train"]["num_worker_per_gpu"] = 0
    finished = run(tmp_path, made)
    made["datasets"]["train"]["num_worker_per_gpu"] = workers
    elsewhere = tmp_path / "elsewhere"
    copied = elsewhere / "experiments/tiny"
    shutil.copytree(finished, copied)
    for number in range(6, 13):
        (copied / f"training_states/{number}.state").unlink()
    resumed = run(elsewhere, made, "--auto_resume")
    assert_equal(content(resumed, 12), content(finished, 12))
