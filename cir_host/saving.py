"""Saving networks and training states: whole, complete, and only as many as wanted."""

import json
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from pathlib import Path
from typing import Any

import torch
from basicsr.utils import get_root_logger
from torch import nn

from cir_host.checkpoint import NETWORK_KEY
from cir_host.distributed import gathered
from cir_host.errors import UserError
from cir_host.files import PART, write_whole
from cir_host.random_states import random_states, set_random_states
from cir_host.training import validated_at

_FAILURES = (OSError, RuntimeError)
"""Errors of ``torch.save`` on a full disk, depending on when it notices."""

_LATEST = -1
"""BasicSR's number for the end of the training."""

_OF_THE_OPTIONS = frozenset(
    {
        "periods",
        "cumulative_period",
        "restart_weights",
        "eta_min",
        "milestones",
        "gamma",
        "restarts",
    }
)
"""Attributes of BasicSR's schedulers that come from the options; a resumed run may change them."""

_KERNELS = ("foreach", "fused")
"""Keys of an optimizer's groups that say how it computes, not what."""


def save_network(
    self: Any,
    net: nn.Module | Sequence[nn.Module],
    net_label: str,
    current_iter: int | str,
    param_key: str | Sequence[str] = "params",
) -> None:
    """Save networks in BasicSR's format; replaces ``BaseModel.save_network``.

    BasicSR writes over the earlier file, and after a failure continues with half a file. This also
    stores the options of the network, since the weights do not determine all of them, and what the
    model's ``entries_for_others`` returns for the last state dict.

    Args:
        self: The model.
        net: One network, or several for one file.
        net_label: Start of the file's name.
        current_iter: The iteration, -1 for the end of the training, or another end of the name.
        param_key: The container key of each network.

    Raises:
        UserError: The network cannot be written at the end of the training. At an earlier iteration
            the failure is logged, and the training state of that iteration is not written either.
    """
    if self.opt["rank"] != 0:
        return
    nets = [net] if isinstance(net, nn.Module) else net
    keys = [param_key] if isinstance(param_key, str) else param_key
    content: dict[str, Any] = {
        key: {name: tensor.cpu() for name, tensor in self.get_bare_model(n).state_dict().items()}
        for n, key in zip(nets, keys, strict=True)
    }
    if net_label == "net_g" and "network_g" in self.opt:
        content[NETWORK_KEY] = json.dumps(self.opt["network_g"])
    if net_label == "net_g" and hasattr(self, "entries_for_others"):
        content |= self.entries_for_others(content[keys[-1]])
    number = "latest" if current_iter == _LATEST else current_iter
    file = Path(self.opt["path"]["models"]) / f"{net_label}_{number}.pth"
    try:
        write_whole(file, lambda stream: torch.save(content, stream))
    except _FAILURES as error:
        if current_iter == _LATEST:
            raise UserError(
                f"{file}: cannot be written ({error}); make room on the disk and resume"
            ) from error
        _report(file, error)
        self._unsaved_at = current_iter


def save_training_state(self: Any, epoch: int, current_iter: int) -> None:
    """Save all that is needed to resume a run exactly; replaces ``BaseModel.save_training_state``.

    Besides BasicSR's keys, the state holds the number of samples drawn (``samples``), the random
    states of every process (``random``), the data sets validated at this iteration (``validated``),
    the best metrics so far (``best_metric_results``) and the result of the model's
    ``state_of_training`` (``model``). Checkpoints beyond ``logger.keep_checkpoints`` are deleted
    afterwards.
    """
    if current_iter == _LATEST:
        return
    states = gathered(random_states())
    plan = self.opt.get("data_plan")
    state = {
        "epoch": plan.epoch(current_iter) if plan else epoch,
        "iter": current_iter,
        "samples": plan.drawn(current_iter) if plan else None,
        "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
        "schedulers": [scheduler.state_dict() for scheduler in self.schedulers],
        "random": states,
        "validated": validated_at(self, current_iter),
        "best_metric_results": _plain(getattr(self, "best_metric_results", {})),
        "model": self.state_of_training() if hasattr(self, "state_of_training") else {},
    }
    self._saved_at = current_iter
    if self.opt["rank"] != 0 or getattr(self, "_unsaved_at", None) == current_iter:
        return
    file = Path(self.opt["path"]["training_states"]) / f"{current_iter}.state"
    try:
        write_whole(file, lambda stream: torch.save(state, stream))
    except _FAILURES as error:
        _report(file, error)
        return
    _delete_old(self.opt)


def resume_training(self: Any, resume_state: Mapping[str, Any]) -> None:
    """Load a training state into a model; replaces ``BaseModel.resume_training``.

    The periods and milestones of the learning-rate schedule come from the options, which may extend
    them.

    Raises:
        UserError: The state belongs to another kind of model.
    """
    for kind in ("optimizers", "schedulers"):
        ours, saved = getattr(self, kind), resume_state[kind]
        if len(ours) != len(saved):
            raise UserError(
                f"path.resume_state: holds {len(saved)} {kind}, but {self.opt['model_type']} has"
                f" {len(ours)}; give a state of the same model_type"
            )
    for optimizer, saved in zip(self.optimizers, resume_state["optimizers"], strict=True):
        try:
            optimizer.load_state_dict(_with_kernels_of(optimizer, saved))
        except ValueError as error:
            raise UserError(
                f"path.resume_state: its optimizer does not fit this run's parameters ({error});"
                " give a state of the same network and groups"
            ) from error
    for scheduler, saved in zip(self.schedulers, resume_state["schedulers"], strict=True):
        scheduler.load_state_dict({k: v for k, v in saved.items() if k not in _OF_THE_OPTIONS})
    if best := resume_state.get("best_metric_results"):
        self.best_metric_results = best
    if hasattr(self, "resume_state_of_training"):
        self.resume_state_of_training(resume_state.get("model", {}))
    states = resume_state.get("random", [])
    if self.opt["rank"] < len(states):
        set_random_states(states[self.opt["rank"]])
    self._saved_at = resume_state["iter"]
    self._unvalidated = _lacks_validation(self.opt, resume_state)


def _with_kernels_of(optimizer: torch.optim.Optimizer, saved: Mapping[str, Any]) -> dict[str, Any]:
    """Return a saved state with the kernels of this run, which may be on another device."""
    own = {key: optimizer.defaults[key] for key in _KERNELS if key in optimizer.defaults}
    return {**saved, "param_groups": [{**group, **own} for group in saved["param_groups"]]}


def best_metrics_into_state(original: Callable[..., Any]) -> Callable[..., Any]:
    """Make ``BaseModel.validation`` save the state of its iteration again, with its best metrics.

    BasicSR saves before it validates, so a run resumed from that state would not know them.
    """

    @wraps(original)
    def validation(
        self: Any, dataloader: Any, current_iter: Any, *args: Any, **kwargs: Any
    ) -> None:
        original(self, dataloader, current_iter, *args, **kwargs)
        if self.is_train and getattr(self, "_saved_at", None) == current_iter:
            self.save_training_state(-1, current_iter)

    return validation


def _lacks_validation(opt: Mapping[str, Any], state: Mapping[str, Any]) -> bool:
    """Whether the run stopped before all data sets were validated at the state's iteration."""
    if not opt.get("val") or state["iter"] % opt["val"]["val_freq"] or "validated" not in state:
        return False
    names = {s["name"] for key, s in opt["datasets"].items() if key.split("_")[0] == "val"}
    return names != set(state["validated"])


def _plain(best: Mapping[str, Any]) -> dict[str, Any]:
    """Return BasicSR's best metrics without NumPy scalars, which ``weights_only`` refuses."""
    return {
        data_set: {
            metric: {**record, "val": float(record["val"])} for metric, record in metrics.items()
        }
        for data_set, metrics in best.items()
    }


def _delete_old(opt: Mapping[str, Any]) -> None:
    models, states = (Path(opt["path"][key]) for key in ("models", "training_states"))
    for folder in (models, states):
        for part in folder.glob(f"*{PART}"):
            part.unlink()
    keep = opt["logger"].get("keep_checkpoints")
    if keep is None:
        return
    saved = sorted(int(f.stem) for f in states.glob("*.state") if f.stem.isdecimal())
    for iteration in saved[:-keep]:
        (states / f"{iteration}.state").unlink()
        for file in models.glob(f"net_*_{iteration}.pth"):
            file.unlink()


def _report(file: Path, error: Exception) -> None:
    get_root_logger().error(
        f"{file}: cannot be written ({error}). Training continues; earlier checkpoints are intact."
    )
