"""Checkpoints read safely, whatever holds the weights, and loaded with a report."""

import logging
import pickle
import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from cir_host.errors import UserError

_logger = logging.getLogger("basicsr")

_BY_BASICSR = ("params_ema", "params")
"""Keys of BasicSR's containers. It asks for them on its own account, so they are wishes."""

_CONTAINER_KEYS = (*_BY_BASICSR, "state_dict", "model")

_DERIVED_MASKS = ("attn_mask",)
"""Float buffers that a constructor computes (SwinIR's and HAT's shift masks)."""


@dataclass(frozen=True)
class LoadReport:
    """What became of the tensors of a checkpoint and of a network; names in the network's terms."""

    loaded: tuple[str, ...]
    missing: tuple[str, ...]
    """In the network, not in the file."""
    unexpected: tuple[str, ...]
    """In the file, not in the network."""
    mismatching: tuple[str, ...]
    """In both, of different shapes; with the shapes."""

    @property
    def complete(self) -> bool:
        """Whether the network has no tensor left that the file should have given."""
        return not self.missing and not self.mismatching

    def __str__(self) -> str:
        parts = [f"{len(self.loaded)} tensors loaded"]
        for kind in ("missing", "unexpected", "mismatching"):
            names = getattr(self, kind)
            if names:
                some = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
                parts.append(f"{len(names)} {kind} ({some})")
        return ", ".join(parts)


def read_state_dict(path: Path | str, key: str | None = None) -> dict[str, Tensor]:
    """Read the weights in a file onto the CPU, without running anything that it holds.

    Args:
        path: A file of ``torch.save``, old or new format, or of safetensors (by its ending). It
            holds a state dict, or a container with one under ``params_ema``, ``params``,
            ``state_dict`` or ``model``; the first of these that is there is taken.
        key: The container's key. ``params`` and ``params_ema`` are preferred if there, as in
            BasicSR, which asks for one of them by default; any other must be there.

    Returns:
        Tensors by name, without the prefix ``module.`` of parallel training.

    Raises:
        UserError: The file is missing, damaged, no checkpoint, or holds other objects than tensors
            and plain values; or the key is not there.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: {'a folder, not a file' if path.is_dir() else 'no such file'}")
    content = _load_safetensors(path) if path.suffix == ".safetensors" else _load_pickled(path)
    state = _state_dict_in(content, key, path)
    strangers = [str(name) for name, value in state.items() if not isinstance(value, Tensor)]
    if strangers or not state:
        what = f"{strangers[0]!r} in it is no tensor" if strangers else "it is empty"
        raise UserError(f"{path}: no state dict found; {what}. {_contents(content)}")
    return {str(name).removeprefix("module."): value for name, value in state.items()}


def load_into(
    net: nn.Module, state: Mapping[str, Tensor], strict: bool, source: str, *, testing: bool = False
) -> LoadReport:
    """Load a state dict into a network.

    Integer and boolean buffers, which are indices and counters, and masks that the network computes
    itself do not count as missing.

    Args:
        net: The network, unwrapped.
        state: As :func:`read_state_dict` gives it.
        strict: Every tensor of either side must find its partner.
        source: The file's name in messages.
        testing: Whether figures will be reported: no tensor of the network may then be left as it
            was initialised, strict or not.

    Returns:
        What was loaded. An incomplete load in training is logged as a warning.

    Raises:
        UserError: Tensors have no partner and ``strict`` or ``testing`` forbids it.
    """
    present = net.state_dict()
    mismatching = {
        name: f"{name} {_shape(value)} in the file, {_shape(present[name])} in the network"
        for name, value in state.items()
        if name in present and value.shape != present[name].shape
    }
    fitting = {name: value for name, value in state.items() if name not in mismatching}
    network = type(net).__name__
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*meta parameter.*is a no-op")
            result = net.load_state_dict(fitting, strict=False)
    except RuntimeError as error:  # shapes that a network's own loading brings about
        raise UserError(
            f"{source} does not fit {network}: {' '.join(str(error).split())}"
        ) from error
    gaps = [n for n in result.missing_keys if n not in mismatching]
    report = LoadReport(
        loaded=tuple(name for name in fitting if name in present),
        missing=tuple(n for n in gaps if not _is_derived(n, present[n], net)),
        unexpected=tuple(result.unexpected_keys),
        mismatching=tuple(
            text for n, text in mismatching.items() if strict or not _is_derived(n, present[n], net)
        ),
    )
    if strict and not (report.complete and not report.unexpected):
        raise UserError(f"{source} does not fit {network}: {report}")
    if testing and not report.complete:
        raise UserError(
            f"{source} does not fill {network}: {report}; figures of a partly random network would"
            " mean nothing"
        )
    if not report.complete:
        _logger.warning("%s fills %s only in part: %s.", source, network, report)
    return report


def load_any_container(original: Callable[..., Any]) -> Callable[..., Any]:
    """Make ``BaseModel.load_network`` read safely, name faults, and never test half a network.

    Raises:
        UserError: As :func:`read_state_dict` and :func:`load_into`.
    """

    @wraps(original)
    def load_network(
        self: Any,
        net: nn.Module,
        load_path: str,
        strict: bool = True,
        param_key: str | None = "params",
    ) -> None:
        net = self.get_bare_model(net)
        state = read_state_dict(load_path, param_key)
        self._print_different_keys_loading(net, dict(state), strict)
        report = load_into(net, state, strict, str(load_path), testing=not self.is_train)
        _logger.info("%s: %s from %s", type(net).__name__, report, load_path)

    return load_network


def _is_derived(name: str, tensor: Tensor, net: nn.Module) -> bool:
    """Whether a tensor is no weight: the network computes it, or counts in it."""
    if name in dict(net.named_parameters()):
        return False
    plain = not (tensor.is_floating_point() or tensor.is_complex())
    return plain or name.rpartition(".")[2] in _DERIVED_MASKS


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "scalar"


def _load_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        tensors: dict[str, Tensor] = load_file(path)
    except SafetensorError as error:
        raise UserError(f"{path}: not a whole safetensors file ({error})") from error
    return tensors


def _load_pickled(path: Path) -> Any:
    _refuse_other_files(path)
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        stranger = re.search(r"(?:GLOBAL|Unsupported class) (\S+)", str(error))
        if stranger is None:
            raise UserError(f"{path}: damaged, or not a PyTorch checkpoint") from error
        raise UserError(
            f"{path}: holds Python objects ({stranger[1]}) beside tensors, which may run any code;"
            " if you trust its source, load it with torch.load(..., weights_only=False) and save"
            " its state dict"
        ) from error
    except (RuntimeError, EOFError, OSError, KeyError, ValueError, IndexError) as error:
        raise UserError(
            f"{path}: damaged or cut short ({str(error).partition(chr(10))[0]}); download or copy"
            " it again"
        ) from error


def _refuse_other_files(path: Path) -> None:
    """Name the usual things that lie where a checkpoint should."""
    with path.open("rb") as file:
        head = file.read(512)
    if not head:
        raise UserError(f"{path}: an empty file")
    if head.startswith(b"version https://git-lfs"):
        raise UserError(f"{path}: a pointer of Git LFS; fetch the file itself by `git lfs pull`")
    text = head.lstrip().lower()
    if text.startswith((b"<!doctype", b"<html", b"<?xml")):
        raise UserError(f"{path}: a web page, not a checkpoint; download the file itself")
    if all(byte >= 0x20 or byte in b"\t\r\n" for byte in head):
        raise UserError(f"{path}: a text file, not a checkpoint")


def _state_dict_in(content: Any, key: str | None, path: Path) -> Mapping[str, Any]:
    if not isinstance(content, Mapping):
        raise UserError(f"{path}: holds a {type(content).__name__}, not a state dict")
    wanted: tuple[str, ...] = _CONTAINER_KEYS if key is None else (key, *_CONTAINER_KEYS)
    if key is not None and key not in _BY_BASICSR:
        if not isinstance(content.get(key), Mapping):
            raise UserError(f"{path}: holds no state dict {key!r}. {_contents(content)}")
        wanted = (key,)
    inner = (content[k] for k in wanted if isinstance(content.get(k), Mapping))
    return next(inner, content)


def _contents(content: Mapping[str, Any]) -> str:
    names = [repr(name) for name in content]
    return f"The file holds {', '.join(names[:8])}" + (", ..." if len(names) > 8 else "")
