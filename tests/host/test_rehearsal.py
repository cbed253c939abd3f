"""No run starts, and none is archived for it, before its options have proved sound."""

import random
import shutil
import subprocess
import sys
from types import SimpleNamespace

import basicsr.train
import numpy as np
import pytest
import torch
import yaml
from basicsr.models.base_model import BaseModel
from basicsr.utils.registry import ARCH_REGISTRY, DATASET_REGISTRY, MODEL_REGISTRY
from host_tools import (
    TinyBatchNorm,
    environment,
    fresh_logger,
    run_here,
    script,
    test_options,
    train_options,
    write_options,
    write_pairs,
)
from torch import nn

from cir_host import patches
from cir_host.errors import OptionsError, UserError
from cir_host.rehearsal import _build_network, rehearse


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A folder with images, a finished run in experiments/tiny and a test in results/tiny_test."""
    folder = tmp_path_factory.mktemp("finished")
    write_pairs(folder)
    with pytest.MonkeyPatch.context() as monkeypatch:
        run_here(monkeypatch, folder, train_options(folder))
        options = test_options(folder, folder / "experiments/tiny/models/net_g_latest.pth")
        run_here(monkeypatch, folder, options, command="test")
    return folder


@pytest.fixture
def folder(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "run")


def files(folder):
    """Every file and folder of runs, with sizes and times."""
    places = [path for name in ("experiments", "results") for path in (folder / name).rglob("*")]
    return {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in places}


def section(options, path):
    for group in path.split("."):
        options = options[group]
    return options


def refused(monkeypatch, folder, options, command="train"):
    """The message of a run that does not start; it has changed nothing."""
    before = files(folder)
    assert before
    with pytest.raises(UserError) as caught:
        run_here(monkeypatch, folder, options, command=command)
    assert files(folder) == before
    message = str(caught.value)
    assert "\n" not in message
    return message


PIXELS = "experiments/tiny/models/net_g_latest.pth"


@pytest.mark.parametrize(
    ("where", "change", "words"),
    [
        ("datasets.val", {"dataroot_gt": "no/such"}, ["datasets.val: ", "no/such"]),
        ("datasets.val", {"io_backend": None}, ["datasets.val: PairedImageDataset"]),
        ("datasets.train", {"use_rot": ...}, ["datasets.train: ", "needs the key 'use_rot'"]),
        ("datasets.train", {"gt_size": 512}, ["datasets.train: ", "smaller than patch size"]),
        ("datasets.train", {"batch_size_per_gpu": 16}, ["lower batch_size_per_gpu"]),
        ("network_g", {"num_feat": -1}, ["network_g: SRVGGNetCompact cannot be built"]),
        ("network_g", {"num_feat": 8}, ["does not fit SRVGGNetCompact", "mismatching"]),
        ("path", {"pretrain_network_g": "no.pth"}, ["path.pretrain_network_g: no file no.pth"]),
        ("path", {"pretrain_network_g": "page.pth"}, ["page.pth: is a web page"]),
        (
            "train.optim_g",
            {"type": "AdamX"},
            ["train.optim_g.type: AdamX ", "; it may be ", "Adam"],
        ),
        ("train.optim_g", {"momentun": 0.9}, ["train.optim_g: Adam", "'momentun'"]),
        ("train.optim_g", {"betas": [0.9, 1.5]}, ["train.optim_g: Adam", "beta"]),
        (
            "train.scheduler",
            {"type": "CosineLR"},
            ["CosineLR is not implemented", "CosineAnnealingRestartLR, MultiStepLR"],
        ),
        ("train.scheduler", {"periods": [5]}, ["periods: they sum to 5", "total_iter 12"]),
        ("train.scheduler", {"restart_weights": [1, 1]}, ["should have the same length"]),
        ("train", {"pixel_opt": None}, ["train.pixel_opt: missing"]),
        (
            "val",
            {"averaged_with": [{"network": {"type": "SRVGGNetCompact", "num_feat": -1}}]},
            ["val.averaged_with[0].network: SRVGGNetCompact cannot be built"],
        ),
    ],
)
def test_a_run_that_would_fail_changes_nothing(folder, monkeypatch, where, change, words):
    (folder / "page.pth").write_text("<html>404</html>")
    shutil.copy(folder / PIXELS, folder / "weights.pth")
    options = train_options(folder)
    options["path"]["pretrain_network_g"] = str(folder / "weights.pth")
    section(options, where).update(change)
    for key in [key for key, value in change.items() if value is ...]:
        del section(options, where)[key]
    message = refused(monkeypatch, folder, options)
    assert all(word in message for word in words), message


def test_an_unreadable_image_is_named_with_its_data_set(folder, monkeypatch):
    (folder / "val/lq/000.png").write_bytes(b"no image")
    message = refused(monkeypatch, folder, train_options(folder))
    assert message.startswith("datasets.val: ")
    assert "000.png" in message


@pytest.mark.parametrize("file", ["weights", "images", "options"])
def test_what_a_run_reads_is_not_archived_by_it(folder, monkeypatch, file):
    options = train_options(folder)
    run = folder / "experiments/tiny"
    if file == "weights":
        options["path"]["pretrain_network_g"] = str(folder / PIXELS)
    elif file == "images":
        options["datasets"]["val"]["dataroot_lq"] = str(run / "visualization")
    before = files(folder)
    monkeypatch.chdir(folder)
    written = run / "tiny.yml" if file == "options" else write_options(folder, options)
    monkeypatch.setattr("sys.argv", ["basicsr", "-opt", str(written)])
    with pytest.raises(UserError, match=r"lies in .*experiments/tiny.*choose another `name`"):
        basicsr.train.train_pipeline(str(folder))
    assert files(folder) == before


def test_basicsr_archives_first(folder, monkeypatch):
    target = "basicsr.train:make_exp_dirs"
    monkeypatch.setattr(basicsr.train, "make_exp_dirs", patches.original(target))
    options = train_options(folder)
    options["datasets"]["val"]["dataroot_gt"] = "no/such"
    with pytest.raises(FileNotFoundError):
        run_here(monkeypatch, folder, options)
    assert len([*(folder / "experiments").glob("tiny_archived_*")]) == 1


def test_periods_that_are_too_short_end_basicsr_in_the_middle(folder, monkeypatch):
    for owner, name, target in (
        (basicsr.train, "make_exp_dirs", "basicsr.train:make_exp_dirs"),
        (BaseModel, "setup_schedulers", "basicsr.models.base_model:BaseModel.setup_schedulers"),
    ):
        monkeypatch.setattr(owner, name, patches.original(target))
    options = train_options(folder, "short")
    options["train"]["scheduler"]["periods"] = [5]
    with pytest.raises(TypeError):
        run_here(monkeypatch, folder, options)
    monkeypatch.undo()
    options = train_options(folder, "long_enough")
    options["train"]["scheduler"]["periods"] = [11]  # the first step is taken without it
    run_here(monkeypatch, folder, options)


def test_a_sound_run_archives_the_earlier_one_and_logs_as_ever(folder, monkeypatch, capfd):
    options = train_options(folder)
    with fresh_logger():
        run_here(monkeypatch, folder, options)
    assert len(list((folder / "experiments").glob("tiny_archived_*"))) == 1
    (log,) = (folder / "experiments/tiny").glob("train_tiny_*.log")
    text = log.read_text(encoding="utf-8")
    for line in ("[PairedImageDataset] - train is built", "Network [SRVGGNetCompact] is created"):
        assert line in text
    assert text.count("- train is built") == capfd.readouterr().err.count("- train is built") == 1


def test_the_rehearsal_leaves_random_streams_where_they_are(folder, monkeypatch):
    options = train_options(folder)
    monkeypatch.setattr("sys.argv", ["basicsr", "-opt", str(write_options(folder, options))])
    opt, _ = basicsr.train.parse_options(str(folder))
    expected = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    basicsr.train.make_exp_dirs(opt)
    now = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    assert now == expected


def test_a_test_without_weights_is_refused(folder, monkeypatch):
    options = test_options(folder, None)
    options["path"]["pretrain_network_g"] = None
    message = refused(monkeypatch, folder, options, command="test")
    assert message.startswith("path.pretrain_network_g: missing")
    assert "SRVGGNetCompact" in message
    monkeypatch.setattr(
        basicsr.test, "make_exp_dirs", patches.original("basicsr.test:make_exp_dirs")
    )
    run_here(monkeypatch, folder, options, command="test")  # BasicSR measures a random network


def test_a_test_of_half_a_network_is_refused_strict_or_not(folder, monkeypatch):
    weights = torch.load(folder / PIXELS, weights_only=True)
    del weights["params"]["body.0.weight"]
    torch.save({"params": weights["params"]}, folder / "half.pth")
    options = test_options(folder, folder / "half.pth")
    options["path"]["strict_load_g"] = False
    message = refused(monkeypatch, folder, options, command="test")
    assert "1 missing (body.0.weight)" in message
    options = train_options(folder, "half")
    options["path"].update(pretrain_network_g=str(folder / "half.pth"), strict_load_g=False)
    run_here(monkeypatch, folder, options)  # in training a partial load is the user's right


def test_a_network_that_declares_no_weights_is_tested_without(folder, monkeypatch):
    class Nothing(nn.Module):
        facts = SimpleNamespace(has_weights=False)

        def forward(self, x):
            return x

    monkeypatch.setitem(ARCH_REGISTRY._obj_map, "Nothing", Nothing)
    options = test_options(folder, None, "nothing")
    options["path"]["pretrain_network_g"] = None
    options["network_g"] = {"type": "Nothing"}
    run_here(monkeypatch, folder, options, command="test")
    assert len(list((folder / "results/nothing").rglob("*.png"))) == 2


def test_every_process_hears_the_verdict_of_the_first(folder, monkeypatch):
    monkeypatch.setattr("sys.argv", ["basicsr"])
    make = basicsr.train.make_exp_dirs
    opt = {"rank": 1, "dist": True, "is_train": True}  # would fail if it were rehearsed

    def tell(verdict):
        monkeypatch.setattr(
            torch.distributed, "broadcast_object_list", lambda heard: heard.__setitem__(0, verdict)
        )

    tell(OptionsError("from the first"))
    with pytest.raises(OptionsError, match="from the first"):
        make(opt)
    monkeypatch.setattr("basicsr.utils.misc.get_dist_info", lambda: (1, 2), raising=False)
    monkeypatch.setattr("basicsr.utils.dist_util.get_dist_info", lambda: (1, 2))
    tell(None)
    make(opt)


def parsed(monkeypatch, folder, options):
    monkeypatch.setattr("sys.argv", ["basicsr", "-opt", str(write_options(folder, options))])
    return basicsr.train.parse_options(str(folder))[0]


def test_models_with_two_networks_are_rehearsed_too(finished, monkeypatch):
    options = train_options(finished, "gan")
    options["model_type"] = "SRGANModel"
    discriminator = {"type": "VGGStyleDiscriminator", "num_in_ch": 3, "num_feat": 4}
    options["network_d"] = discriminator
    options["train"]["optim_d"] = dict(options["train"]["optim_g"])
    options["train"]["gan_opt"] = {
        "type": "GANLoss",
        "gan_type": "vanilla",
        "loss_weight": 0.1,
    }
    rehearse(parsed(monkeypatch, finished, options))
    discriminator["input_size"] = 100
    with pytest.raises(OptionsError, match="network_d: VGGStyleDiscriminator cannot be built"):
        rehearse(parsed(monkeypatch, finished, options))


def test_what_is_neither_basicsr_s_nor_ours_is_built_but_not_called(finished, monkeypatch):
    class TheirModel(BaseModel):
        def load_network(self, *args):
            raise AssertionError("called")

        get_optimizer = setup_schedulers = load_network

    class TheirDataset:
        def __init__(self, opt):
            self.opt = opt

        def __len__(self):
            return 1

        def __getitem__(self, index):
            raise AssertionError("called")

    monkeypatch.setitem(MODEL_REGISTRY._obj_map, "TheirModel", TheirModel)
    monkeypatch.setitem(DATASET_REGISTRY._obj_map, "TheirDataset", TheirDataset)
    options = {**train_options(finished, "theirs"), "model_type": "TheirModel"}
    options["datasets"]["train"]["type"] = "TheirDataset"
    options["path"]["pretrain_network_g"] = "hub://theirs"
    del options["train"]["optim_g"], options["train"]["scheduler"]
    rehearse(parsed(monkeypatch, finished, options))


def test_networks_are_built_without_memory_where_that_is_safe(monkeypatch):
    def device(kind, **arguments):
        network = _build_network({"type": kind, **arguments}, "network_g")
        return next(network.parameters()).device.type

    assert device("MSRResNet", num_feat=4, num_block=1) == "meta"
    assert device("SwinIR", embed_dim=4, depths=[1], num_heads=[1]) == "cpu"  # needs values
    monkeypatch.setattr(TinyBatchNorm, "__module__", "theirs")
    assert device("TinyBatchNorm") == "cpu"


def test_a_stock_options_file_trains_and_tests_in_any_locale(tmp_path):
    """Comments and names that are not ASCII, under a locale that is; and a rate as 1e-3."""
    write_pairs(tmp_path)
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}

    def run(options, command):
        options["datasets"] = {
            key: {**value, "name": f"caf\xe9_{key}"} for key, value in options["datasets"].items()
        }
        arguments = script(tmp_path, options, command=command)
        text = "# na\xefve\n" + yaml.safe_dump(options, allow_unicode=True, sort_keys=False)
        text = text.replace("lr: 0.001", "lr: 1e-3")
        (tmp_path / f"{options['name']}.yml").write_text(text, encoding="utf-8")
        return subprocess.run(
            [sys.executable, *arguments],
            cwd=tmp_path,
            env={**environment(), **ascii_only},
            capture_output=True,
            timeout=90,
        )

    options = train_options(tmp_path)
    done = run(options, "train")
    assert done.returncode == 0, done.stderr
    assert b"warning" not in done.stderr
    (log,) = (tmp_path / "experiments/tiny").glob("*.log")
    assert "caf\xe9_train is built" in log.read_text(encoding="utf-8")
    assert "# na\xefve" in (tmp_path / "experiments/tiny/tiny.yml").read_text(encoding="utf-8")

    tested = test_options(tmp_path, tmp_path / PIXELS)
    tested["val"]["save_img"] = False
    done = run(tested, "test")
    assert done.returncode == 0, done.stderr
    (log,) = (tmp_path / "results/tiny_test").glob("*.log")
    assert "# psnr: " in log.read_text(encoding="utf-8")

    tested["name"] = "caf\xe9"
    done = run(tested, "test")
    assert done.returncode == 2
    assert b"PYTHONUTF8=1" in done.stderr
