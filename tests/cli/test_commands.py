"""``basicsr train`` and ``basicsr test`` end to end, as a user runs them."""

import csv
import json
import subprocess
import sys

import pytest
import torch
from command_tools import (
    LAUNCH,
    TINY_PROMPTCIR,
    basicsr,
    one_line_error,
    photographs,
    train_options,
    write_options,
)
from PIL import Image


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder in which a short training has ended."""
    folder = tmp_path_factory.mktemp("trained")
    photographs(folder / "photos")
    done = basicsr(folder, "train", "-opt", write_options(folder / "train.yml", train_options()))
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_options(**changes):
    options = train_options()
    options.update(name="check", val={**options["val"], "suffix": None})
    options["datasets"] = {"test_1": {**options["datasets"]["val"]}}
    options["path"] = {"pretrain_network_g": "experiments/run/models/net_g_latest.pth"}
    for key in ("train", "logger"):
        del options[key]
    options.update(changes)
    return options


test_options.__test__ = False


def test_training_leaves_checkpoints_and_measured_gains(trained):
    run = trained / "experiments" / "run"
    assert {p.name for p in (run / "models").iterdir()} == {
        "net_g_4.pth",
        "net_g_8.pth",
        "net_g_latest.pth",
    }
    weights = torch.load(run / "models" / "net_g_latest.pth", weights_only=True)
    assert set(weights) == {"params", "params_ema", "network_g"}
    assert json.loads(weights["network_g"]) == train_options()["network_g"]
    rows = list(csv.DictReader((run / "metrics.csv").open(encoding="utf-8")))
    assert [r["iteration"] for r in rows if r["image"] == "mean"] == ["4", "8"]
    first = rows[0]
    assert (first["quality"], first["subsampling"]) == ("10", "4:2:0")
    gain = float(first["psnr_output"]) - float(first["psnr_input"])
    assert float(first["psnr_gain"]) == pytest.approx(gain, abs=2e-6)
    assert len(list((run / "visualization" / "held_out").rglob("*.png"))) == 6


def test_a_test_measures_what_training_measured(trained):
    done = basicsr(trained, "test", "-opt", write_options(trained / "test.yml", test_options()))
    assert done.returncode == 0, done.stdout + done.stderr
    results = trained / "results" / "check"
    tested = json.loads((results / "metrics.json").read_text(encoding="utf-8"))
    run = trained / "experiments" / "run"
    validated = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    # the averaged weights are what validation measured, and what a test loads by itself
    for metric in ("psnr", "psnrb"):
        assert (
            tested["data_sets"]["held_out"]["mean"][metric]
            == validated["data_sets"]["held_out"]["mean"][metric]
        )
    assert tested["network"] == TINY_PROMPTCIR
    assert "libjpeg" in tested["data_sets"]["held_out"]["protocol"]["codec"]
    assert "| held_out | 3 |" in (results / "metrics.md").read_text(encoding="utf-8")
    assert len(list((results / "visualization" / "held_out").glob("*_check.png"))) == 3


def test_how_images_passed_is_named_in_the_results(trained):
    options = test_options(name="special")
    options["val"] |= {"self_ensemble": "transpose", "precision": "auto", "tile": 48, "overlap": 16}
    options["val"]["averaged_with"] = ["experiments/run/models/net_g_4.pth"]
    done = basicsr(trained, "test", "-opt", write_options(trained / "special.yml", options))
    assert done.returncode == 0, done.stdout + done.stderr
    stored = json.loads(
        (trained / "results" / options["name"] / "metrics.json").read_text(encoding="utf-8")
    )
    protocol = stored["data_sets"]["held_out"]["protocol"]
    assert protocol["self-ensemble"] == "transpose"
    assert protocol["precision"] in ("fp32", "bf16")  # by what the machine computes fast
    assert protocol["networks averaged"] == "2"
    assert protocol["inference"].startswith("tiles of 48 px, stride 32 (multiples of 16)")


def means(run):
    rows = csv.DictReader((run / "metrics.csv").open(encoding="utf-8"))
    return {r["iteration"]: float(r["psnr_output"]) for r in rows if r["image"] == "mean"}


def test_two_processes_do_what_one_does(trained, tmp_path):
    """Under torchrun, with the batch of one process in halves, and validation shared."""
    photographs(tmp_path / "photos")
    options = train_options(datasets__train__batch_size_per_gpu=1)
    name = write_options(tmp_path / "train.yml", options)
    done = basicsr(tmp_path, "train", "-opt", name, "--launcher", "pytorch", launch=LAUNCH)
    assert done.returncode == 0, done.stdout + done.stderr
    run, alone = (folder / "experiments/run" for folder in (tmp_path, trained))
    ours, theirs = (
        torch.load(r / "models/net_g_latest.pth", weights_only=True)["params"] for r in (run, alone)
    )
    for key, value in theirs.items():
        torch.testing.assert_close(ours[key], value, rtol=1e-3, atol=2e-4, msg=key)
    assert means(run) == pytest.approx(means(alone), abs=0.02)
    assert {p.name for p in run.rglob("*.png")} == {p.name for p in alone.rglob("*.png")}


def test_a_process_that_dies_ends_the_run_with_a_message(tmp_path):
    photographs(tmp_path / "photos")
    (tmp_path / "dying.py").write_text(
        "import os, signal, sys\n"
        "from cir_cli.main import main\n"
        "from cir_model import CIRModel\n"
        "step = CIRModel.optimize_parameters\n"
        "def dying(self, iteration):\n"
        "    if self.opt['rank'] == 1 and iteration == 3:\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    step(self, iteration)\n"
        "CIRModel.optimize_parameters = dying\n"
        "if __name__ == '__main__':\n"
        "    sys.exit(main())\n"
    )
    options = train_options(datasets__train__num_worker_per_gpu=0)
    name = write_options(tmp_path / "train.yml", options)
    command = [sys.executable, *LAUNCH, "dying.py", "train", "-opt", name, "--launcher", "pytorch"]
    done = subprocess.run(command, cwd=tmp_path, text=True, capture_output=True, timeout=120)
    assert done.returncode != 0
    assert "SIGKILL" in done.stderr  # torchrun names the process
    assert "process 0 has lost another process of this run" in done.stderr, done.stderr


def test_a_mistake_is_one_line_and_costs_no_earlier_run(trained):
    """One line each; the run that lies in experiments/run is neither archived nor changed."""
    before = sorted(str(p) for p in (trained / "experiments").rglob("*"))

    def error(command="train", **changes):
        options = train_options(**changes) if command == "train" else changes["options"]
        return one_line_error(
            basicsr(trained, command, "-opt", write_options(trained / "bad.yml", options))
        )

    options = train_options()
    options["datasets"]["train"]["qualty"] = 10
    write_options(trained / "typo.yml", options)
    line = one_line_error(basicsr(trained, "train", "-opt", "typo.yml"))
    assert "datasets.train.qualty" in line
    assert '"quality"' in line
    line = error(datasets__train__dataroot_gt="no_such_folder")
    assert "no_such_folder" in line
    line = error(network_g__window_sise=4)
    assert "window_sise" in line
    assert "window_size" in line
    line = error("test", options=test_options(path={"pretrain_network_g": None}))
    assert "pretrain_network_g" in line
    assert sorted(str(p) for p in (trained / "experiments").rglob("*")) == before


def test_an_unknown_options_file_names_the_near_ones(tmp_path):
    line = one_line_error(basicsr(tmp_path, "train", "-opt", "promptcir_x2.yml"))
    assert "promptcir_x1.yml" in line


def test_a_truncated_image_is_skipped_or_an_error_as_the_options_say(tmp_path):
    photos = photographs(tmp_path / "photos")
    whole = (photos / "coffee.png").read_bytes()
    (photos / "coffee.png").write_bytes(whole[: len(whole) // 2])
    options = train_options(val=None)
    del options["datasets"]["val"]
    done = basicsr(tmp_path, "train", "-opt", write_options(tmp_path / "a.yml", options))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "coffee.png" in done.stdout + done.stderr
    options["datasets"]["train"]["strict"] = True
    done = basicsr(tmp_path, "train", "-opt", write_options(tmp_path / "b.yml", options))
    assert "coffee.png" in one_line_error(done)


def test_a_user_error_in_the_main_program(tmp_path):
    done = basicsr(tmp_path, "fly")
    assert done.returncode == 2
    assert "invalid choice: 'fly'" in done.stderr


def test_images_of_one_stem_do_not_overwrite_each_other(trained):
    folder = trained / "twins"
    for part, colour in (("a", "red"), ("b", "blue")):
        (folder / part).mkdir(parents=True)
        Image.new("RGB", (24, 24), colour).save(folder / part / "same.png")
    options = test_options(name="twins")
    options["datasets"]["test_1"].update(dataroot_gt="twins", name="twins")
    done = basicsr(trained, "test", "-opt", write_options(trained / "twins.yml", options))
    assert done.returncode == 0, done.stdout + done.stderr
    saved = list((trained / "results" / "twins" / "visualization" / "twins").glob("*.png"))
    assert len(saved) == 2
