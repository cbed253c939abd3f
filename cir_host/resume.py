"""Resuming a run from its own folder, on any device, with state and networks that fit."""

import logging
import pickle
from pathlib import Path
from typing import Any

import torch
from basicsr.utils import check_resume

from cir_host.checkpoint import read_state_dict
from cir_host.errors import UserError

# Not get_root_logger(): the first call sets up the logger, and the log file comes after resuming.
_logger = logging.getLogger("basicsr")

_KEYS = {"epoch", "iter", "optimizers", "schedulers"}


def load_resume_state(opt: dict[str, Any]) -> dict[str, Any] | None:
    """Load the training state that the options name; replaces BasicSR's function.

    With ``--auto_resume``, it is the newest state in the run's own folder; states that cannot be
    used, such as a truncated file, are skipped with a warning. Otherwise it is
    ``path.resume_state``. ``opt["resumed_from"]`` is set to the epoch, the iteration and the number
    of samples drawn.

    Returns:
        The state, with tensors on the CPU; the optimizers move them to their device. None if there
        is nothing to resume.

    Raises:
        UserError: The state, or a network saved with it, is missing, damaged or of another run.
    """
    state = _newest_state(opt) if opt["auto_resume"] else _named_state(opt)
    if state is not None:
        check_resume(opt, state["iter"])
        opt["resumed_from"] = {
            key: state[key] for key in ("epoch", "iter", "samples") if state.get(key) is not None
        }
    return state


def _named_state(opt: dict[str, Any]) -> dict[str, Any] | None:
    path = opt["path"].get("resume_state")
    return _load(Path(path), opt) if path else None


def _newest_state(opt: dict[str, Any]) -> dict[str, Any] | None:
    files = Path(opt["path"]["training_states"]).glob("*.state")
    newest_first = sorted(
        (file for file in files if file.stem.isdecimal()), key=lambda f: int(f.stem), reverse=True
    )
    problem: UserError | None = None
    for file in newest_first:
        try:
            state = _load(file, opt)
        except UserError as error:
            problem = problem or error
        else:
            if problem:
                _logger.warning("%s; resuming from %s instead.", problem, file.name)
            opt["path"]["resume_state"] = str(file)
            return state
    if problem:
        raise problem
    return None


def _load(path: Path, opt: dict[str, Any]) -> dict[str, Any]:
    if not path.is_file():
        raise UserError(f"path.resume_state: {path} does not exist; name a file of training_states")
    try:
        state: Any = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, OSError, KeyError, ValueError, pickle.UnpicklingError) as error:
        raise UserError(
            f"{path}: damaged, or holds other objects than tensors and plain values; resume from"
            " another file of training_states"
        ) from error
    if not isinstance(state, dict) or not state.keys() >= _KEYS:
        raise UserError(f"{path}: not a training state; resume from training_states/NUMBER.state")
    _check_networks(path, state["iter"], opt)
    return state


def _check_networks(state: Path, iteration: int, opt: dict[str, Any]) -> None:
    """Check the networks that were saved with the state in this run's folder."""
    ignored = opt["path"].get("ignore_resume_networks") or ()
    models = Path(opt["path"]["models"])
    for network in (key for key in opt if key.startswith("network_") and key not in ignored):
        file = models / f"net_{network.removeprefix('network_')}_{iteration}.pth"
        if not file.is_file():
            raise UserError(
                f"{state}: the network saved with it is missing: {file}; `name` must be the name of"
                f" the run that saved the state, but is {opt['name']!r}"
            )
        read_state_dict(file)  # raises if it is damaged
