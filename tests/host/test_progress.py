"""What a training records of itself, and the curves drawn from it."""

import json

import pytest
from host_tools import basicsr_log
from PIL import Image

from cir_cli import plot
from cir_host.errors import UserError
from cir_host.progress import RECORDS, TrainingLog, read_records
from cir_host.sampler import DataPlan, Stage
from cir_host.training import Validations


class Board:
    def __init__(self):
        self.scalars = {}

    def add_scalar(self, tag, value, step):
        self.scalars[tag, step] = value


def log(folder, start_iter=0, board=None, total=100, rank=0):
    opt = {
        "name": "run",
        "rank": rank,
        "logger": {"print_freq": 1, "use_tb_logger": board is not None},
        "train": {"total_iter": total},
        "path": {"experiments_root": str(folder)},
        "data_plan": DataPlan(10, 20, (Stage(5, 8), Stage(total, 16))),
        "validations": Validations([]),
    }
    return TrainingLog(opt, start_iter, board)


def line(iteration, **values):
    times = {"time": 0.5, "data_time": 0.1}
    return {"epoch": 0, "iter": iteration, "lrs": [1e-3, 5e-4, 1e-3], **times, **values}


def test_a_line_has_the_speed_and_every_number(tmp_path):
    board = Board()
    made = log(tmp_path, board=board)
    with basicsr_log() as messages:
        made(line(10, l_pix=0.25, grad_norm=2.0, skipped=3))
    (message,) = messages
    assert "[epoch:  5, iter:      10, lr:(1.000e-03,5.000e-04)]" in message
    assert "2 it/s, 32 samples/s, step 0.400 s, data 0.100 s (20%)" in message
    assert "l_pix: 2.5000e-01 grad_norm: 2.0000e+00 skipped: 3" in message
    assert board.scalars["losses/l_pix", 10] == 0.25
    assert board.scalars["samples_per_second", 10] == 32
    (record,) = read_records(tmp_path / RECORDS)
    assert (record["iter"], record["epoch"], record["lr"], record["l_pix"]) == (10, 5, 1e-3, 0.25)
    assert record["memory_gb"] > 0


def test_the_end_is_estimated_from_this_start_on(tmp_path):
    made = log(tmp_path, start_iter=40)
    made.start_time -= 100  # for the ten iterations since
    with basicsr_log() as messages:
        made(line(50))
    assert "eta: 0:08:20" in messages[0]


def test_a_resumed_run_goes_on_in_the_record(tmp_path):
    made = log(tmp_path)
    for iteration in (10, 20, 30):
        made(line(iteration, l_pix=1.0))
    with (tmp_path / RECORDS).open("a") as file:
        file.write('{"iter": 40, "l_')  # the run was killed while it wrote
    resumed = log(tmp_path, start_iter=20)
    resumed(line(30, l_pix=2.0))
    values = [(r["iter"], r["l_pix"]) for r in read_records(tmp_path / RECORDS)]
    assert values == [(10, 1.0), (20, 1.0), (30, 2.0)]


def test_other_processes_record_nothing(tmp_path):
    log(tmp_path, rank=1)(line(10))
    assert not (tmp_path / RECORDS).exists()


def test_curves_are_drawn(tmp_path, capsys):
    run = tmp_path / "experiments/run"
    run.mkdir(parents=True)
    made = log(run)
    for iteration in (10, 20):
        made(line(iteration, l_pix=1 / iteration, grad_norm=1.0))
    (run / "metrics.csv").write_text(
        "data_set,iteration,image,psnr_input,psnr_output,psnr_gain\n"
        "A,10,a.png,1,2,1\nA,10,mean,20,21,1\nA,20,mean,20,22,2\nB,20,mean,20,,\n"
    )
    panels = plot.curves(run)
    assert panels["loss"]["l_pix"] == ([10, 20], [0.1, 0.05])
    assert panels["gain over the input, psnr"] == {"A": ([10, 20], [1, 2]), "B": ([], [])}
    assert set(panels["seconds per iteration"]) == {"data_time", "step_time"}
    pytest.importorskip("matplotlib")
    plot.run([str(run)])
    assert capsys.readouterr().out.strip() == str(run / "curves.png")
    with Image.open(run / "curves.png") as image:
        assert image.convert("L").getextrema()[0] < 100  # not an empty page
    (run / RECORDS).write_text(json.dumps({"iter": 1}))
    (run / "metrics.csv").unlink()
    with pytest.raises(UserError, match=r"run: holds neither training\.jsonl nor metrics\.csv"):
        plot.run([str(run)])
    with pytest.raises(UserError, match="neither this folder nor experiments"):
        plot.run([str(tmp_path / "nothing")])
