"""``basicsr demo`` on machines that are busy or slow; the whole of it is run by ``make demo``."""

import os
import subprocess
import sys

import pytest
import torch

from cir_cli import demo


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="cores cannot be taken away")
def test_threads_are_as_many_as_the_cores_that_are_free():
    """Two threads on one core, as in a container that sees more cores than it may use."""
    code = (
        "import os, torch; from cir_cli import demo; torch.set_num_threads(4)\n"
        "os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); print(demo._free_cores())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout == "1\n"


def test_its_commands_run_on_these_threads_and_do_not_spin(monkeypatch, tmp_path):
    started = []

    def start(command, **kwargs):
        started.append(kwargs["env"])
        return popen([sys.executable, "-c", "print('iter: 1, l_pix: 0.1')"], **kwargs)

    popen = subprocess.Popen
    monkeypatch.setattr(demo.subprocess, "Popen", start)
    monkeypatch.setattr(demo.torch, "get_num_threads", lambda: 3)
    demo._basicsr(tmp_path, "train", total=1)
    assert started[0].items() >= {"OMP_NUM_THREADS": "3", "OMP_WAIT_POLICY": "PASSIVE"}.items()


@pytest.mark.parametrize(("step", "iterations"), [(1.0, 110), (0.25, 440), (30.0, 60)])
def test_the_training_fits_its_time_but_learns_something(monkeypatch, tmp_path, step, iterations):
    ran = []

    class Stop(Exception):
        pass

    def run(folder, *arguments, total):
        ran.append((arguments, total))
        raise Stop

    monkeypatch.setattr(demo, "_free_cores", torch.get_num_threads)
    monkeypatch.setattr(demo, "_restore", lambda folder: None)
    monkeypatch.setattr(demo, "_seconds_per_step", lambda name: step)
    monkeypatch.setattr(demo, "_basicsr", run)
    with pytest.raises(Stop):
        demo.run(["--folder", str(tmp_path)])
    ((arguments, total),) = ran
    assert total == iterations
    assert f"train:total_iter={iterations}" in arguments
    assert f"train:scheduler:periods=[{iterations}]" in arguments
    assert ("train:optim_g:lr=1e-3" in arguments) == (iterations == 60)


def test_few_steps_are_timed_where_they_are_slow(monkeypatch):
    """A step that takes 6 s here: the second ends the measurement, and counts."""
    now = iter(range(0, 600, 6))
    monkeypatch.setattr(demo.time, "perf_counter", lambda: float(next(now)))
    monkeypatch.setattr(demo, "build_network", lambda options: torch.nn.Conv2d(3, 3, 1))
    assert demo._seconds_per_step("demo_train.yml") == 6
    assert next(now) == 24
