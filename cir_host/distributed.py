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
    """Make ``init_dist`` use gloo if there is no GPU.

    Raises:
        UserError: The process was not started by the launcher that the command names, a variable
            of the launcher is wrong, or the other processes cannot be reached.
    """

    @wraps(original)
    def init_dist(launcher: str, backend: str = "nccl", **kwargs: Any) -> None:
        variable = _RANK_VARIABLE.get(launcher)
        if variable is None:
            original(launcher, backend, **kwargs)
            return
        if variable not in os.environ:
            raise UserError(
                f"--launcher {launcher}: the environment variable {variable} is not set; start the"
                f" command with"
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
                f"--launcher {launcher}: {place} cannot reach the others ({reason}); start all of"
                " them, with the same MASTER_ADDR and a free MASTER_PORT"
            ) from error

    return init_dist


def refuse_lone_process() -> None:
    """Refuse to run without ``--launcher`` as one of several processes.

    Each of them would take the folder of the run for its own.

    Raises:
        UserError: A variable of torch's launcher says that there are several processes.
    """
    for variable, alone in (("WORLD_SIZE", "1"), ("RANK", "0"), ("LOCAL_RANK", "0")):
        value = os.environ.get(variable) or alone
        if value != alone:
            raise UserError(
                f"the environment variable {variable} is {value!r}, as if a launcher had started"
                " several processes; add --launcher pytorch, or unset it"
            )


def _place() -> str:
    """Check the launcher's variables; return which process this is, for messages."""
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
            f"the environment variable {variable} is {value!r}, not an integer of at least"
            f" {least}; start the command with `{_START['pytorch']}`"
        )
    return int(value)


def _text(variable: str) -> str:
    value = os.environ.get(variable, "")
    if not value:
        raise UserError(
            f"the environment variable {variable} is not set, but others of torch's launcher are;"
            f" start the command with `{_START['pytorch']}`"
        )
    return value


def _take_slurm_environment(port: int | None) -> None:
    """Set torch's environment variables from those of Slurm."""
    missing = [name for name in ("SLURM_NTASKS", "SLURM_NODELIST") if name not in os.environ]
    if missing:
        raise UserError(
            f"--launcher slurm: the environment variable {missing[0]} is not set; start the command"
            f" with `{_START['slurm']}`"
        )
    command = ["scontrol", "show", "hostnames", os.environ["SLURM_NODELIST"]]
    try:
        hosts = subprocess.run(command, capture_output=True, check=True, text=True)
        os.environ["MASTER_ADDR"] = hosts.stdout.split()[0]
    except (OSError, subprocess.CalledProcessError, IndexError) as error:
        raise UserError(
            f"--launcher slurm: `{' '.join(command)}` does not list the nodes ({error}); run it in"
            " a job of Slurm"
        ) from error
    if port is not None:
        os.environ["MASTER_PORT"] = str(port)
    os.environ.setdefault("MASTER_PORT", "29500")
    os.environ["RANK"] = os.environ["SLURM_PROCID"]
    os.environ["WORLD_SIZE"] = os.environ["SLURM_NTASKS"]
    os.environ.setdefault("LOCAL_RANK", os.environ.get("SLURM_LOCALID", "0"))


def wrap_on_any_device(original: Callable[..., Any]) -> Callable[..., Any]:
    """Make ``BaseModel.model_to_device`` distribute networks on CPUs, also fully frozen ones.

    Raises:
        UserError: The run is on CPUs, but its process group is for GPUs.
    """

    @wraps(original)
    def model_to_device(self: Any, net: nn.Module) -> nn.Module:
        if not self.opt["dist"]:
            moved: nn.Module = original(self, net)
            return moved
        if not any(p.requires_grad for p in net.parameters()):
            return net.to(self.device)  # torch refuses to wrap a network without gradients
        if self.device.type != "cpu":
            wrapped: nn.Module = original(self, net)
            return wrapped
        if dist.get_backend() == "nccl":
            raise UserError(
                "num_gpu: 0 with several processes needs a machine without visible GPUs; set the"
                " environment variable CUDA_VISIBLE_DEVICES to an empty value"
            )
        unused = self.opt.get("find_unused_parameters", False)
        return DistributedDataParallel(net.to(self.device), find_unused_parameters=unused)

    return model_to_device


def on_bare_networks(original: Callable[..., Any]) -> Callable[..., Any]:
    """Make ``BaseModel.validation`` run the networks without ``DistributedDataParallel``.

    The wrapper's forward pass broadcasts buffers to all processes, but BasicSR's image models
    validate in one process only: it would wait for the others, or disturb their next step.
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
    """Make a pipeline destroy its process group when it ends or is told to stop.

    A process that fails does not, since it would wait for the others, which wait for it.

    Raises:
        UserError: Another process of the run has died.
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
                    " message says why; resume with --auto_resume"
                ) from error
            raise
        _leave_group()

    return pipeline


_PEER_LOST = re.compile(r"closed by peer|reset by peer|broken pipe|remote process exited", re.I)
"""Messages of gloo and NCCL when the other end of a connection is gone."""


def _leave_group() -> None:
    if connected():
        dist.destroy_process_group()


def connected() -> bool:
    """Whether this process belongs to a process group."""
    return dist.is_available() and dist.is_initialized()


def any_process(flag: bool) -> bool:
    """Return whether the flag is set in any process of the run; all of them must call this.

    The flags are exchanged between CPUs, so no process waits for its GPU.
    """
    if not connected():
        return flag
    flags = torch.tensor(int(flag))
    dist.all_reduce(flags, dist.ReduceOp.MAX, group=_between_cpus())
    return bool(flags)


def gathered(value: Any) -> list[Any]:
    """Return the values of all processes of the run by rank; all of them must call this."""
    if not connected():
        return [value]
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


@cache
def _between_cpus() -> Any:
    return None if dist.get_backend() == "gloo" else dist.new_group(backend="gloo")
