"""Training steps of our models, and runs that are stopped and resumed, for several test files."""

import copy
import os
import re
import shutil
from pathlib import Path

import torch
from command_tools import train_options, write_options

import cir_data  # noqa: F401 (registers its data sets)
from cir_cli.pipelines import train
from cir_model import CIRModel

TOTAL = 6
"""Iterations of a run."""

NETWORK = {"type": "SRVGGNetCompact", "num_feat": 4, "num_conv": 1, "upscale": 1}


def model(network=None, **train):
    """A model in training without a folder, its weights always the same."""
    opt = train_options(network_g=dict(network or NETWORK))
    opt["train"]["optim_g"] = {"type": "SGD", "lr": 0.1}
    opt["train"].update(copy.deepcopy(train))
    opt.update(is_train=True, dist=False, rank=0, world_size=1)
    torch.manual_seed(0)
    return CIRModel(opt)


def batch(number=4, size=16, seed=1):
    generator = torch.Generator().manual_seed(seed)
    lq, gt = torch.rand(2, number, 3, size, size, generator=generator)
    return {"lq": lq, "gt": gt}


def step(made, data=None, iteration=1):
    made.feed_data(data or batch())
    made.optimize_parameters(iteration)
    return made.log_dict


def weights(made, net="net_g"):
    return {k: v.clone() for k, v in getattr(made, net).state_dict().items()}


def assert_close(first, second, **tolerance):
    assert first.keys() == second.keys()
    for name in first:
        torch.testing.assert_close(first[name], second[name], msg=name, **tolerance)


def run(folder, options, *flags):
    """Train in this process on one thread, since several are slow beside other tests."""
    return run_on(1, folder, options, *flags)


def run_on(threads, folder, options, *flags):
    """Train in this process."""
    name = write_options(folder / "options.yml", options)
    before, earlier = Path.cwd(), torch.get_num_threads()
    os.chdir(folder)
    torch.set_num_threads(threads)
    try:
        train(["-opt", name, *flags])
    finally:
        torch.set_num_threads(earlier)
        os.chdir(before)
    return folder / "experiments" / options["name"]


def content(run_folder, iteration=TOTAL):
    """Everything that a run has at an iteration, as one state dict of tensors and plain values."""
    network = torch.load(run_folder / f"models/net_g_{iteration}.pth", weights_only=True)
    state = torch.load(run_folder / f"training_states/{iteration}.state", weights_only=True)
    return {"network": network, "state": state}


def assert_equal(first, second, where=""):
    assert type(first) is type(second), where
    if isinstance(first, dict):
        assert first.keys() == second.keys(), where
        for key in first:
            assert_equal(first[key], second[key], f"{where}.{key}")
    elif isinstance(first, (list, tuple)):
        assert len(first) == len(second), where
        for i, (a, b) in enumerate(zip(first, second, strict=True)):
            assert_equal(a, b, f"{where}[{i}]")
    elif isinstance(first, torch.Tensor):
        assert torch.equal(first, second), where
    else:
        assert first == second, where


def stopped_at(whole, iteration, folder):
    """A copy of the run as it was when it was killed after an iteration."""
    copied = folder / "experiments/run"
    shutil.copytree(whole, copied)
    for file in copied.rglob("*"):
        number = re.search(r"(\d+|latest|best)\.(state|pth)$", file.name)
        if number and (not number[1].isdecimal() or int(number[1]) > iteration):
            file.unlink()
    return copied
