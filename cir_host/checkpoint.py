"""Checkpoints read safely, whatever holds the weights, and loaded with a report."""

import logging
import pickle
import re
import warnings
import zipfile
from collections.abc import Callable, Iterable, Mapping, Set
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from cir_host.errors import UserError

_logger = logging.getLogger("basicsr")

_BY_BASICSR = ("params_ema", "params")
"""Keys of BasicSR's containers. It asks for them on its own account, so they are wishes."""

NETWORK_KEY = "network_g"
"""Where a file holds its network: the section of an options file as JSON."""

_CONTAINER_KEYS = (*_BY_BASICSR, "state_dict", "model_state_dict", "model", "net")

_WRAPPERS = ("module.", "_orig_mod.")
"""What parallel training and the compiler put before the names of a network."""

_OWNERS = ("net.", "netG.", "model.", "model_g.")
"""What a network is called in the module that trains it, such as Lightning's."""

_DERIVED_MASKS = ("attn_mask",)
"""Float buffers that a constructor computes (SwinIR's and HAT's shift masks)."""


finders: list[Callable[[Path], Path | None]] = []
"""Ask for a file that is not there under the name given. Whoever ships weights adds to the list."""

describers: list[Callable[[Mapping[str, Tensor]], str | None]] = []
"""Ask what a state dict looks like, for messages. Whoever knows networks adds to the list."""


@dataclass(frozen=True)
class Checkpoint:
    """The weights in a file, and how it holds them."""

    state: dict[str, Tensor]
    """Tensors by name, without the prefixes of whatever wrapped the network."""
    container: str
    """``safetensors``, ``zip`` (torch.save since 1.6) or ``legacy`` (before)."""
    keys: tuple[str, ...]
    """Where in the file there are state dicts; none where the file is one."""
    key: str | None
    """The one that ``state`` is from."""
    prefix: str
    """What was taken off the names."""
    metadata: Mapping[str, str]
    """Text that a safetensors file holds beside the tensors."""


@dataclass(frozen=True)
class LoadReport:
    """What became of the tensors of a checkpoint and of a network; names in the network's terms.

    Indices, counters and masks, which a network computes itself, are left out.
    """

    loaded: tuple[str, ...]
    missing: tuple[str, ...]
    """In the network, not in the file."""
    unexpected: tuple[str, ...]
    """In the file, not in the network."""
    mismatching: tuple[str, ...]
    """In both, of different shapes; with the shapes."""
    parameters: int
    """Numbers that were loaded into parameters."""
    all_parameters: int
    """Numbers that the network's parameters hold."""

    @property
    def complete(self) -> bool:
        """Whether the network has no tensor left that the file should have given."""
        return not self.missing and not self.mismatching

    def __str__(self) -> str:
        tensors = len(self.loaded) + len(self.missing) + len(self.mismatching)
        partly = "" if self.parameters == self.all_parameters else f"{self.parameters:,} of "
        parameters = f"{partly}{self.all_parameters:,} parameters"
        parts = [f"{len(self.loaded)} of {tensors} tensors ({parameters}) fit"]
        for kind in ("missing", "unexpected", "mismatching"):
            names = getattr(self, kind)
            if names:
                some = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
                parts.append(f"{len(names)} {kind} ({some})")
        return ", ".join(parts)


def locate(path: Path) -> Path:
    """Return the file itself, or the one that is meant by its name; it need not be there.

    Raises:
        UserError: The name could be one of :data:`finders`' and is not.
    """
    if path.exists():
        return path
    return next((file for find in finders if (file := find(path))), path)


def read_checkpoint(
    path: Path | str, key: str | None = None, names: Iterable[str] = ()
) -> Checkpoint:
    """Read the weights in a file onto the CPU, without running anything that it holds.

    Args:
        path: A file of ``torch.save``, old or new format, or of safetensors (by its ending). It
            holds a state dict, or a container with one under ``params_ema``, ``params``,
            ``state_dict``, ``model_state_dict``, ``model``, ``net`` or its only key; the first of
            these that is there is taken. Where there is no such file, a name without a folder
            (``promptcir_s_x1`` or ``promptcir_s_x1.safetensors``) is one of ``cir_weights``.
        key: The container's key. ``params`` and ``params_ema`` are preferred if there, as in
            BasicSR, which asks for one of them by default; any other must be there.
        names: Those of the network that the weights are for. Without them, ``net.`` or another
            usual prefix of all names is taken off; with them, only if they do not have it too.

    Raises:
        UserError: The file is missing, damaged, no checkpoint, or holds other objects than tensors
            and plain values; or the key is not there.
    """
    path = locate(Path(path))
    if not path.is_file():
        raise UserError(f"{path}: {'a folder, not a file' if path.is_dir() else 'no such file'}")
    metadata: Mapping[str, str] = {}
    if path.suffix == ".safetensors":
        content, metadata = _load_safetensors(path)
        container = "safetensors"
    else:
        content = _load_pickled(path)
        values: Mapping[str, Any] = content if isinstance(content, Mapping) else {}
        metadata = {str(k): v for k, v in values.items() if isinstance(v, str)}
        container = "zip" if zipfile.is_zipfile(path) else "legacy"
    state, found = _state_dict_in(content, key, path)
    strangers = [str(name) for name, value in state.items() if not isinstance(value, Tensor)]
    if strangers or not state:
        what = f"{strangers[0]!r} in it is no tensor" if strangers else "it is empty"
        raise UserError(f"{path}: no state dict found; {what}. {_contents(content)}")
    bare, prefix = _without_prefixes(state, set(names), "pytorch-lightning_version" in content)
    keys = tuple(str(k) for k, v in content.items() if isinstance(v, Mapping) and _is_state(v))
    return Checkpoint(bare, container, keys, found, prefix, metadata)


def read_state_dict(path: Path | str, key: str | None = None) -> dict[str, Tensor]:
    """Return the tensors in a file by name; arguments and errors as in :func:`read_checkpoint`."""
    return read_checkpoint(path, key).state


def load_into(
    net: nn.Module, state: Mapping[str, Tensor], strict: bool, source: str, *, testing: bool = False
) -> LoadReport:
    """Load a state dict into a network.

    Integer and boolean buffers, which are indices and counters, and masks that the network computes
    itself count as neither missing nor unexpected.

    Args:
        net: The network, unwrapped.
        state: As :func:`read_checkpoint` gives it.
        strict: Every tensor of either side must find its partner. Otherwise what fits by name and
            shape is loaded.
        source: The file's name in messages.
        testing: Whether figures will be reported: no tensor of the network may then be left as it
            was initialised, strict or not.

    Returns:
        What was loaded. An incomplete load in training is logged as a warning.

    Raises:
        UserError: Tensors have no partner and ``strict`` or ``testing`` forbids it, or none has.
    """
    present = net.state_dict()
    weights = {name for name, value in present.items() if not _is_derived(name, value, net)}
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
            f"{source} does not fit {network}: {' '.join(str(error).split())}{_hint(state)}"
        ) from error
    gaps = set(result.missing_keys) | mismatching.keys()
    loaded = tuple(name for name in present if name in weights and name not in gaps)
    report = LoadReport(
        loaded=loaded,
        missing=tuple(n for n in result.missing_keys if n in weights and n not in mismatching),
        unexpected=tuple(n for n in result.unexpected_keys if not _is_derived(n, state[n])),
        mismatching=tuple(text for n, text in mismatching.items() if strict or n in weights),
        parameters=sum(p.numel() for n, p in net.named_parameters() if n in loaded),
        all_parameters=sum(p.numel() for p in net.parameters()),
    )
    if strict and not (report.complete and not report.unexpected):
        advice = "" if testing or not loaded else "; strict_load_g: false would load what fits"
        raise UserError(f"{source} does not fit {network}: {report}{advice}{_hint(state)}")
    if testing and not report.complete:
        raise UserError(
            f"{source} does not fill {network}: {report}; figures of a partly random network would"
            f" mean nothing{_hint(state)}"
        )
    if weights and not loaded:
        raise UserError(f"{source}: nothing in it fits {network}: {report}{_hint(state)}")
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
        wanted = _wanted_key(self.opt.get("path") or {}, load_path, param_key)
        file = read_checkpoint(load_path, wanted, net.state_dict())
        report = load_into(net, file.state, strict, str(load_path), testing=not self.is_train)
        part = "" if file.key is None else f", its {file.key}"
        _logger.info("%s: %s, loaded from %s%s", type(net).__name__, report, load_path, part)

    return load_network


def _wanted_key(paths: Mapping[str, Any], load_path: str, param_key: str | None) -> str | None:
    """Tell which key the options mean where BasicSR asks for ``param_key``.

    It asks for ``params`` where the options name no key, and for ``params_ema`` for its averaged
    network always. A run that is resumed goes on with both as they were. Otherwise a key in the
    options counts for both networks, and without one averaged weights are preferred.
    """
    labels = [
        name.removeprefix("pretrain_network_")
        for name, path in paths.items()
        if name.startswith("pretrain_network_") and path == load_path
    ]
    left_out = paths.get("ignore_resume_networks") or ()
    if paths.get("resume_state") and not any(f"network_{label}" in left_out for label in labels):
        return "params_ema" if param_key == "params_ema" else "params"
    named = [paths.get(f"param_key_{label}") for label in labels]
    key = next((name for name in named if name is not None), None)
    if labels and key is None:
        return None
    return key if key not in (None, *_BY_BASICSR) else param_key


def _is_derived(name: str, tensor: Tensor, net: nn.Module | None = None) -> bool:
    """Whether a tensor is no weight: the network computes it, or counts in it."""
    if net is not None and name in dict(net.named_parameters()):
        return False
    plain = not (tensor.is_floating_point() or tensor.is_complex())
    return plain or name.rpartition(".")[2] in _DERIVED_MASKS


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "scalar"


def _hint(state: Mapping[str, Tensor]) -> str:
    texts = (describe(state) for describe in describers)
    return next((f". {text[0].upper()}{text[1:]}" for text in texts if text), "")


def _load_safetensors(path: Path) -> tuple[dict[str, Tensor], Mapping[str, str]]:
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except SafetensorError as error:
        raise UserError(f"{path}: not a whole safetensors file ({error})") from error


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


def _state_dict_in(
    content: Any, key: str | None, path: Path
) -> tuple[Mapping[str, Any], str | None]:
    """Return the innermost state dict and the key under which the file holds it."""
    if not isinstance(content, Mapping):
        raise UserError(f"{path}: holds a {type(content).__name__}, not a state dict")
    wanted: tuple[str, ...] = _CONTAINER_KEYS if key is None else (key, *_CONTAINER_KEYS)
    if key is not None and key not in _BY_BASICSR:
        if not isinstance(content.get(key), Mapping):
            raise UserError(f"{path}: holds no state dict {key!r}. {_contents(content)}")
        wanted = (key,)
    state, found = content, None
    while not _is_state(state):
        only = tuple(state) if len(state) == 1 else ()
        inner = next((k for k in (*wanted, *only) if isinstance(state.get(k), Mapping)), None)
        if inner is None:
            break
        state, found = state[inner], found or str(inner)
        wanted = _CONTAINER_KEYS
    return state, found


def _is_state(content: Mapping[str, Any]) -> bool:
    return bool(content) and all(isinstance(value, Tensor) for value in content.values())


def _without_prefixes(
    state: Mapping[str, Tensor], names: Set[str], trained_by_others: bool
) -> tuple[dict[str, Tensor], str]:
    """Take off what wrapped or owned the network; return the prefixes that all names had.

    Where a training program saved more than the network (losses, a discriminator), only what
    stands under the network's usual name is kept.
    """
    prefix = ""
    bare = {str(name): value for name, value in state.items()}
    while True:
        common = [p for p in (*_WRAPPERS, *_OWNERS) if all(name.startswith(p) for name in bare)]
        if not common and trained_by_others:
            owners = [p for p in _OWNERS if any(name.startswith(p) for name in bare)]
            common = owners if len(owners) == 1 else []
        if not common or any(name.startswith(common[0]) for name in names):
            break
        start = common[0]
        prefix += start
        bare = {n.removeprefix(start): v for n, v in bare.items() if n.startswith(start)}
    if not any("_orig_mod." in name for name in names):  # parts that were compiled alone
        bare = {name.replace("_orig_mod.", ""): value for name, value in bare.items()}
    return {name.removeprefix("module."): value for name, value in bare.items()}, prefix


def _contents(content: Mapping[str, Any]) -> str:
    names = [repr(name) for name in content]
    return f"The file holds {', '.join(names[:8])}" + (", ..." if len(names) > 8 else "")
