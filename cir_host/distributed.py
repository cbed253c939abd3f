"""Training in several processes, also on CPUs."""

import os
import re
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, wraps
from typing import Any

import torch
import torch.multiprocessing as mp
from torch import distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from cir_host.errors import UserError

_RANK_VARIABLE = {"pytorch": "RANK", "slurm": "SLURM_PROCID"}
_START = {
    "pytorch": "torchrun --nproc-per-node 2 --no-python basicsr train -opt X.yml"
    " --launcher pytorch",
    "slurm": "srun --ntasks 2 basicsr train -opt X.yml --launcher slurm",
}


def any_device(original: Callable[..., Any]) -> Callable[..., Any]:
    """Make ``init_dist`` use gloo where there is no GPU.

    Raises:
        UserError: The process was not started by the launcher that the command names, or what the
            launcher tells it is not sound, or the other processes cannot be reached.
    """

    @wraps(original)
    def init_dist(launcher: str, backend: str = "nccl", **kwargs: Any) -> None:
        variable = _RANK_VARIABLE.get(launcher)
        if variable is None:
            original(launcher, backend, **kwargs)
            return
        if variable not in os.environ:
            raise UserError(
                f"--launcher {launcher}: {variable} is not set; start the command by"
                f" `{_START[launcher]}`"
            )
        if launcher == "slurm":
            _take_slurm_environment(kwargs.pop("port", None))
        place = _place()
        try:
            if torch.cuda.is_available():
                original("pytorch", backend, **kwargs)
            else:
                if mp.get_start_method(allow_none=True) is None:
                    mp.set_start_method("spawn")
                dist.init_process_group("gloo", **kwargs)
        except (RuntimeError, ValueError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise UserError(
                f"--launcher {launcher}: {place} does not reach the others ({reason}); start all"
                " of them, with one MASTER_ADDR and a free MASTER_PORT"
            ) from error

    return init_dist


def refuse_lone_process() -> None:
    """Refuse a process without ``--launcher`` that others were started beside.

    Each of them would take the folder of the run for its own.

    Raises:
        UserError: A variable of torch's launcher says so, or is not sound.
    """
    for variable, alone in (("WORLD_SIZE", "1"), ("RANK", "0"), ("LOCAL_RANK", "0")):
        value = os.environ.get(variable) or alone
        if value != alone:
            raise UserError(
                f"the environment variable {variable} is {value!r}, as where a launcher starts"
                " several processes; add --launcher pytorch, or unset it"
            )


def _place() -> str:
    """Check what the launcher tells this process; return which one it is, for messages."""
    rank = _number("RANK", 0)
    processes = _number("WORLD_SIZE", 1)
    if "LOCAL_RANK" in os.environ:
        _number("LOCAL_RANK", 0)
    if rank >= processes:
        raise UserError(
            f"the environment variable RANK is {rank}, but WORLD_SIZE is {processes}; ranks count"
            " from 0"
        )
    port = _number("MASTER_PORT", 1)
    if port > 65535:
        raise UserError(f"the environment variable MASTER_PORT is {port}, more than 65535")
    return f"process {rank} of {processes} at {_text('MASTER_ADDR')}:{port}"


def _number(variable: str, least: int) -> int:
    value = _text(variable)
    if not value.isdecimal() or int(value) < least:
        raise UserError(
            f"the environment variable {variable} is {value!r}, not an integer from {least} on;"
            f" start the command by `{_START['pytorch']}`"
        )
    return int(value)


def _text(variable: str) -> str:
    value = os.environ.get(variable, "")
    if not value:
        raise UserError(
            f"the environment variable {variable} is not set, but others of torch's launcher are;"
            f" start the command by `{_START['pytorch']}`"
        )
    return value


def _take_slurm_environment(port: int | None) -> None:
    """Tell torch by its own variables what Slurm tells by others."""
    missing = [name for name in ("SLURM_NTASKS", "SLURM_NODELIST") if name not in os.environ]
    if missing:
        raise UserError(
            f"--launcher slurm: {missing[0]} is not set; start the command by `{_START['slurm']}`"
        )
    command = ["scontrol", "show", "hostnames", os.environ["SLURM_NODELIST"]]
    try:
        hosts = subprocess.run(command, capture_output=True, check=True, text=True)
        os.environ["MASTER_ADDR"] = hosts.stdout.split()[0]
    except (OSError, subprocess.CalledProcessError, IndexError) as error:
        raise UserError(
            f"--launcher slurm: `{' '.join(command)}` does not tell the nodes ({error})"
        ) from error
    if port is not None:
        os.environ["MASTER_PORT"] = str(port)
    os.environ.setdefault("MASTER_PORT", "29500")
    os.environ["RANK"] = os.environ["SLURM_PROCID"]
    os.environ["WORLD_SIZE"] = os.environ["SLURM_NTASKS"]
    os.environ.setdefault("LOCAL_RANK", os.environ.get("SLURM_LOCALID", "0"))


def wrap_on_any_device(original: Callable[..., Any]) -> Callable[..., Any]:
    """Make ``BaseModel.model_to_device`` distribute networks on CPUs, and those without weights.

    Raises:
        UserError: A CPU run in several processes that were connected for GPUs.
    """

    @wraps(original)
    def model_to_device(self: Any, net: nn.Module) -> nn.Module:
        if not self.opt["dist"]:
            moved: nn.Module = original(self, net)
            return moved
        if not any(p.requires_grad for p in net.parameters()):
            return net.to(self.device)  # torch refuses to wrap what has no gradient to share
        if self.device.type != "cpu":
            wrapped: nn.Module = original(self, net)
            return wrapped
        if dist.get_backend() == "nccl":
            raise UserError(
                "num_gpu: 0 in several processes needs a machine without visible GPUs; set the"
                " environment variable CUDA_VISIBLE_DEVICES to an empty value"
            )
        unused = self.opt.get("find_unused_parameters", False)
        return DistributedDataParallel(net.to(self.device), find_unused_parameters=unused)

    return model_to_device


def on_bare_networks(original: Callable[..., Any]) -> Callable[..., Any]:
    """Make ``BaseModel.validation`` run the networks without their distributing wrapper.

    The wrapper's forward shares buffers among all processes, while BasicSR's image models validate
    in one of them: the others then take the broadcast for their own next step, or never come.
    """

    @wraps(original)
    def validation(self: Any, *args: Any, **kwargs: Any) -> Any:
        with _bare_networks(self):
            return original(self, *args, **kwargs)

    return validation


@contextmanager
def _bare_networks(model: Any) -> Iterator[None]:
    wrapped = {k: v for k, v in vars(model).items() if isinstance(v, DistributedDataParallel)}
    vars(model).update({name: net.module for name, net in wrapped.items()})
    try:
        yield
    finally:
        vars(model).update(wrapped)


def leave_group_at_end(original: Callable[..., Any]) -> Callable[..., Any]:
    """Make a pipeline that has come to its end disconnect its processes.

    One that was told to stop does so too. One that fails does not: it would wait for the others,
    which wait for it.
    """

    @wraps(original)
    def pipeline(root_path: str) -> None:
        try:
            original(root_path)
        except SystemExit:
            _leave_group()
            raise
        except RuntimeError as error:
            if connected() and _PEER_LOST.search(str(error)):
                raise UserError(
                    f"process {dist.get_rank()} has lost another process of this run, whose own"
                    " message tells why; go on with --auto_resume"
                ) from error
            raise
        _leave_group()

    return pipeline


_PEER_LOST = re.compile(r"closed by peer|reset by peer|broken pipe|remote process exited", re.I)
"""What gloo and nccl say when the other end of a connection is gone."""


def _leave_group() -> None:
    if connected():
        dist.destroy_process_group()


def connected() -> bool:
    """Whether this process is one of several."""
    return dist.is_available() and dist.is_initialized()


def any_process(flag: bool) -> bool:
    """Whether the flag is set in any process of the run. All of them must ask.

    It is exchanged between CPUs, so that no GPU is waited for.
    """
    if not connected():
        return flag
    flags = torch.tensor(int(flag))
    dist.all_reduce(flags, dist.ReduceOp.MAX, group=_between_cpus())
    return bool(flags)


@cache
def _between_cpus() -> Any:
    return None if dist.get_backend() == "gloo" else dist.new_group(backend="gloo")
