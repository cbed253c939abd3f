"""Several processes on CPUs, started by torchrun, and what a wrong start says."""

import os
import socket
import subprocess
import sys
from datetime import timedelta

import basicsr.utils.options
import pytest
import torch
from basicsr.models.base_model import BaseModel
from basicsr.utils import dist_util
from host_tools import (
    TinyBatchNorm,
    checkpoints,
    run_here,
    run_python,
    script,
    test_options,
    train_options,
    write_options,
    write_pairs,
)
from torch import nn

from cir_host import distributed
from cir_host.errors import UserError
from cir_host.launchers import normalise_argv

TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


def test_two_processes_train_validate_and_test_on_cpus(tmp_path):
    """Batch norm without averaged weights: its buffers are what the processes share."""
    write_pairs(tmp_path)
    options = train_options(tmp_path)
    options["network_g"] = {"type": "TinyBatchNorm"}
    del options["train"]["ema_decay"]
    options["train"]["total_iter"] = 7
    options["val"]["val_freq"] = 2
    done = run_python(
        [*TORCHRUN, *script(tmp_path, options, "--launcher", "pytorch")], tmp_path, timeout=90
    )
    assert checkpoints(tmp_path) == [4]
    assert done.stderr.count("Validation val") == 4  # by one of the two, at 2, 4, 6 and 7
    assert "World size (gpu number): 2" in done.stderr
    for noise in ("Traceback", "destroy_process_group"):
        assert noise not in done.stderr
    checkpoint = tmp_path / "experiments/tiny/models/net_g_latest.pth"
    saved = torch.load(checkpoint, weights_only=True)
    assert saved["params"]["body.1.num_batches_tracked"] == 7

    test = test_options(tmp_path, checkpoint)
    test["network_g"] = options["network_g"]
    arguments = script(tmp_path, test, "--launcher", "pytorch", command="test")
    done = run_python([*TORCHRUN, *arguments], tmp_path, timeout=90)
    assert done.stderr.count("# psnr: ") == 1


@pytest.mark.parametrize(
    "spelling", [["--local-rank=1"], ["--local-rank", "1"], ["--local_rank=1"]]
)
def test_the_rank_that_torch_s_launcher_adds_is_understood(tmp_path, monkeypatch, spelling):
    """``python -m torch.distributed.launch`` puts it before the command's own arguments."""
    file = write_options(tmp_path, train_options(tmp_path))
    forced = ["--force_yml", "name=a--local-rank"]
    command, *argv = normalise_argv([*spelling, "train", "-opt", str(file), *forced])
    assert command == "train"
    monkeypatch.setattr(sys, "argv", ["basicsr", *argv])
    options, args = basicsr.utils.options.parse_options(str(tmp_path))
    assert args.local_rank == 1
    assert options["name"] == "a--local-rank"


@pytest.mark.parametrize(("launcher", "variable"), [("pytorch", "RANK"), ("slurm", "SLURM_PROCID")])
@pytest.mark.parametrize("module", [dist_util, basicsr.utils.options])
def test_a_start_without_the_launcher_says_how_to_start(monkeypatch, module, launcher, variable):
    monkeypatch.delenv(variable, raising=False)
    with pytest.raises(UserError, match=rf"{variable} is not set; start the command with .*run "):
        module.init_dist(launcher)


SOUND = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}


@pytest.fixture
def variables(monkeypatch):
    """Set the variables of torch's launcher, and no others of them."""
    monkeypatch.setattr(distributed.torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(distributed.mp, "set_start_method", lambda _: None)  # stays for all tests

    def set_variables(values):
        for name in {*SOUND, "LOCAL_RANK"}:
            monkeypatch.delenv(name, raising=False)
        for name, value in values.items():
            monkeypatch.setenv(name, value)

    return set_variables


@pytest.mark.parametrize("module", [dist_util, basicsr.utils.options])
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"RANK": "x"}, "RANK is 'x', not an integer of at least 0"),
        ({"RANK": "-1"}, "RANK is '-1'"),
        ({"RANK": "1.0"}, "RANK is '1.0'"),
        ({"RANK": "2"}, "RANK is 2, but WORLD_SIZE is 2"),
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE is 'two', not an integer of at least 1"),
        ({"WORLD_SIZE": "0"}, "WORLD_SIZE is '0'"),
        ({"WORLD_SIZE": None}, "WORLD_SIZE is not set"),
        ({"LOCAL_RANK": "x"}, "LOCAL_RANK is 'x'"),
        ({"MASTER_ADDR": None}, "MASTER_ADDR is not set"),
        ({"MASTER_ADDR": ""}, "MASTER_ADDR is not set"),
        ({"MASTER_PORT": None}, "MASTER_PORT is not set"),
        ({"MASTER_PORT": "http"}, "MASTER_PORT is 'http'"),
        ({"MASTER_PORT": "65536"}, "MASTER_PORT is 65536"),
    ],
)
def test_what_a_launcher_would_not_say_is_named(variables, monkeypatch, module, change, words):
    variables({k: v for k, v in {**SOUND, **change}.items() if v is not None})
    monkeypatch.setattr(distributed.dist, "init_process_group", lambda *a, **k: pytest.fail("asks"))
    with pytest.raises(UserError, match="environment variable") as caught:
        module.init_dist("pytorch")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


def test_a_process_that_does_not_come_ends_the_wait_with_a_line(variables):
    port = free_port()
    variables({**SOUND, "RANK": "1", "MASTER_PORT": port})
    with pytest.raises(UserError, match=rf"process 1 of 2 at 127.0.0.1:{port} cannot reach"):
        dist_util.init_dist("pytorch", timeout=timedelta(seconds=1))


@pytest.mark.parametrize("variable", ["RANK", "WORLD_SIZE", "LOCAL_RANK"])
@pytest.mark.parametrize("value", ["2", "x"])
def test_one_of_several_processes_needs_a_launcher(
    variables, monkeypatch, tmp_path, variable, value
):
    """Without one, each would rename the folder that the other has made."""
    write_pairs(tmp_path)
    variables({variable: value})
    with pytest.raises(UserError, match=rf"{variable} is '{value}'.* add --launcher pytorch"):
        run_here(monkeypatch, tmp_path, train_options(tmp_path))
    assert not (tmp_path / "experiments").exists()
    variables({"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": ""})
    monkeypatch.setattr(sys, "argv", ["basicsr", "-opt", str(tmp_path / "tiny.yml")])
    assert not basicsr.utils.options.parse_options(str(tmp_path))[0]["dist"]


@pytest.mark.parametrize("lost", ["SLURM_NTASKS", "SLURM_NODELIST", "scontrol"])
def test_slurm_that_does_not_tell_its_nodes_is_named(monkeypatch, tmp_path, lost):
    settings = {"SLURM_PROCID": "0", "SLURM_NTASKS": "2", "SLURM_NODELIST": "n[1-2]"}
    settings.pop(lost, None)
    monkeypatch.setattr(os, "environ", {**settings, "PATH": str(tmp_path)})
    with pytest.raises(UserError, match=rf"--launcher slurm: .*{lost}"):
        dist_util.init_dist("slurm")


def test_slurm_s_variables_reach_torch(monkeypatch):
    asked, joined = [], []

    def scontrol(command, **_):
        asked.append(command)
        return subprocess.CompletedProcess(command, 0, stdout="node3\nnode4\n")

    monkeypatch.setattr(distributed.torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(distributed.mp, "get_start_method", lambda allow_none: "spawn")
    monkeypatch.setattr(distributed.subprocess, "run", scontrol)
    monkeypatch.setattr(distributed.dist, "init_process_group", lambda *a, **k: joined.append(a))
    settings = {"SLURM_PROCID": "3", "SLURM_NTASKS": "4", "SLURM_NODELIST": "node[3-4]"}
    monkeypatch.setattr(os, "environ", settings)
    dist_util.init_dist("slurm", backend="nccl", port=1234)
    assert asked[0][-1] == "node[3-4]"
    assert joined == [("gloo",)]
    expected = {"RANK": "3", "WORLD_SIZE": "4", "MASTER_ADDR": "node3", "MASTER_PORT": "1234"}
    assert settings.items() >= expected.items()
    dist_util.init_dist("slurm")
    assert settings["MASTER_PORT"] == "1234"  # set in the environment


@pytest.fixture
def alone(tmp_path):
    """A group of one process."""
    store = torch.distributed.FileStore(str(tmp_path / "store"), 1)
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("fails", [False, True])
def test_a_pipeline_leaves_its_group_unless_it_fails(variables, tmp_path, monkeypatch, fails):
    """A failing process does not wait for others that wait for it."""
    write_pairs(tmp_path)
    variables({**SOUND, "WORLD_SIZE": "1", "MASTER_PORT": free_port()})
    options = train_options(tmp_path)
    if fails:
        options["datasets"]["train"]["batch_size_per_gpu"] = 16
        with pytest.raises(UserError):
            run_here(monkeypatch, tmp_path, options, "--launcher", "pytorch")
    else:
        run_here(monkeypatch, tmp_path, options, "--launcher", "pytorch")
        test = test_options(tmp_path, tmp_path / "experiments/tiny/models/net_g_latest.pth")
        run_here(monkeypatch, tmp_path, test, "--launcher", "pytorch", command="test")
    assert torch.distributed.is_initialized() == fails
    if fails:
        torch.distributed.destroy_process_group()


def cpu_model(dist=True):
    return BaseModel({"num_gpu": 0, "is_train": False, "dist": dist, "rank": 0, "world_size": 1})


@pytest.mark.usefixtures("alone")
def test_a_network_without_weights_is_not_wrapped():
    network = nn.Identity()
    assert cpu_model().model_to_device(network) is network


@pytest.mark.usefixtures("alone")
def test_processes_connected_for_gpus_cannot_train_on_cpus(monkeypatch):
    monkeypatch.setattr(distributed.dist, "get_backend", lambda: "nccl")
    with pytest.raises(UserError, match=r"num_gpu: 0 .* CUDA_VISIBLE_DEVICES"):
        cpu_model().model_to_device(TinyBatchNorm())


@pytest.mark.usefixtures("alone")
def test_validation_sees_bare_networks_also_when_it_fails():
    model = cpu_model()
    model.net_g = wrapped = model.model_to_device(TinyBatchNorm())
    assert wrapped.module is not wrapped

    def dist_validation(*_):
        assert model.net_g is wrapped.module
        raise InterruptedError

    model.dist_validation = dist_validation
    with pytest.raises(InterruptedError):
        model.validation([], "name", None)
    assert model.net_g is wrapped
