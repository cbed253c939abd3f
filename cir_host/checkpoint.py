"""Reading checkpoints of any format safely."""

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor

from cir_host.checkpoint_files import read_file, shown, some_of
from cir_host.errors import UserError
from cir_host.file_names import printable

BY_BASICSR = ("params_ema", "params")
"""Keys of BasicSR's containers. BasicSR requests these by default, so they are preferences."""

NETWORK_KEY = "network_g"
"""Key of the network's section of the options, stored as JSON."""

_CONTAINER_KEYS = (*BY_BASICSR, "state_dict", "model_state_dict", "model", "net", "sd")

_WRAPPERS = ("module.", "_orig_mod.")
"""Prefixes that parallel training and ``torch.compile`` add to the names of tensors."""

_OWNERS = ("net.", "netG.", "net_g.", "model.", "model_g.", "generator.")
"""Prefixes of the network in a module that trains it, such as Lightning's."""

_PLAIN = (int, float, str, type(None))
"""Values such as ``epoch: 3`` that may stand beside the tensors of a state dict; ignored."""

_LARGEST_REPEATED = 1 << 30
"""Most bytes of a tensor that is larger than its storage; loading a larger one may fill memory."""


Finder: TypeAlias = Callable[[Path], Path | None]
"""Returns the checkpoint that a name stands for, or None if the name is not its own."""

_finders: list[Finder] = []


def register_finder(find: Finder) -> Finder:
    """Let a package that ships weights find them by name; a decorator.

    This package lies below the ones that hold weights, so it cannot import them.
    """
    _finders.append(find)
    return find


@dataclass(frozen=True)
class Checkpoint:
    """The weights in a file, and how it holds them."""

    state: dict[str, Tensor]
    """Tensors by name, without prefixes of wrappers."""
    container: str
    """``safetensors``, ``zip`` (torch.save since 1.6) or ``legacy`` (before)."""
    keys: tuple[str, ...]
    """Keys of the state dicts in the file; empty if the file is a state dict itself."""
    key: str | None
    """The key that ``state`` comes from."""
    prefix: str
    """The prefix that was removed from the names."""
    metadata: Mapping[str, str]
    """Text that is stored beside the tensors."""
    member: str | None = None
    """The file within the zip archive, if the given file was one."""


def locate(path: Path) -> Path:
    """Return the path itself if it exists, else the bundled weights of that name, if any.

    Raises:
        UserError: The path does not exist, and looks like the name of bundled weights that are not
            there either.
    """
    with suppress(OSError):  # an impossible file name; opening it will say why
        if not path.exists():
            return next((file for find in _finders if (file := find(path))), path)
    return path


def read_checkpoint(
    path: Path | str, key: str | None = None, names: Iterable[str] = ()
) -> Checkpoint:
    """Read weights from a file onto the CPU, without executing anything in it.

    Args:
        path: A file of ``torch.save``, old or new format, or of safetensors, with any suffix; or a
            zip archive with one such file in it. It holds a state dict, which may include plain
            values, or a container with one under ``params_ema``, ``params``, ``state_dict``,
            ``model_state_dict``, ``model``, ``net``, ``sd`` or its only key; the first of these
            that exists is used, and searched in the same way. If there is no such file, a name
            without a folder (``promptcir_s_x1`` or ``promptcir_s_x1.safetensors``) stands for
            bundled weights.
        key: The container's key. ``params`` and ``params_ema`` are preferences, as BasicSR requests
            one of them by default; any other key must exist.
        names: The names in the state dict of the network that will get the weights. A usual prefix
            of all names, such as ``net.``, is removed unless these names have it too.

    Raises:
        UserError: The file is missing, damaged, not a checkpoint, or holds other objects than
            tensors and plain values; or the key does not exist.

    Example:
        >>> import cir_weights  # so that bundled weights are found by name
        >>> read_checkpoint("promptcir_s_x1").container
        'safetensors'
    """
    path = locate(Path(path))
    source = printable(str(path))
    file = read_file(path)
    state, found = _state_dict_in(file.content, key, source)
    keys = tuple(str(k) for k, v in file.content.items() if isinstance(v, Mapping) and _is_state(v))
    if not _is_state(state):
        reason = _why_no_state(file.content, state, keys)
        raise UserError(f"{source}: no state dict found; {reason}. {_contents(file.content)}")
    tensors = {name: value for name, value in state.items() if isinstance(value, Tensor)}
    for name, value in tensors.items():
        if (what := _unusable(value)) is not None:
            raise UserError(f"{source}: {shown(name)} in it {what}")
    bare, prefix = _without_prefixes(
        tensors, set(names), "pytorch-lightning_version" in file.content
    )
    return Checkpoint(bare, file.container, keys, found, prefix, file.metadata, file.member)


def read_state_dict(path: Path | str, key: str | None = None) -> dict[str, Tensor]:
    """Return the tensors of a file by name; see :func:`read_checkpoint`."""
    return read_checkpoint(path, key).state


def _state_dict_in(
    content: Any, key: str | None, source: str
) -> tuple[Mapping[Any, Any], str | None]:
    """Return the innermost state dict and the key under which the file holds it."""
    if not isinstance(content, Mapping):
        raise UserError(f"{source}: holds a {type(content).__name__}, not a state dict")
    wanted: tuple[str, ...] = _CONTAINER_KEYS if key is None else (key, *_CONTAINER_KEYS)
    if key is not None and key not in BY_BASICSR:
        if not isinstance(_under(key, content), Mapping):
            raise UserError(f"{source}: holds no state dict {key!r}. {_contents(content)}")
        wanted = (key,)
    state, found = content, None
    seen = set()
    while not _is_state(state) and id(state) not in seen:
        seen.add(id(state))  # a pickle may contain itself
        only = tuple(map(str, state)) if len(state) == 1 else ()
        inner = next((k for k in (*wanted, *only) if isinstance(_under(k, state), Mapping)), None)
        if inner is None:
            break
        state, found = _under(inner, state), found or inner
        wanted = _CONTAINER_KEYS
    return state, found


def _under(key: str, content: Mapping[Any, Any]) -> Any:
    """Return the value of a key, which may be a number in the file."""
    return content.get(key, next((v for k, v in content.items() if str(k) == key), None))


def _is_state(content: Mapping[Any, Any]) -> bool:
    """Whether a mapping holds tensors, and otherwise only plain values."""
    values = [value for value in content.values() if not isinstance(value, _PLAIN)]
    return bool(values) and all(isinstance(value, Tensor) for value in values)


def _why_no_state(whole: Mapping[Any, Any], content: Mapping[Any, Any], keys: Sequence[str]) -> str:
    """Say why a file holds no state dict, in its ``whole`` content or the innermost mapping."""
    if "optimizers" in whole:
        return "it is a training state without a network; give models/net_g_NUMBER.pth instead"
    if "state_dict_unet" in content:
        return "it changes a diffusion model, as CODiff's does; basicsr restore and convert take it"
    if len(keys) > 1:
        return f"it holds several ({some_of(keys)}); give the key of one of them"
    strangers = [name for name, value in content.items() if not isinstance(value, Tensor)]
    objects = [name for name in strangers if not isinstance(content[name], _PLAIN)]
    names = [shown(repr(name)) for name in (*objects, *strangers)]
    return f"{names[0]} in it is not a tensor" if names else "it is empty"


def _unusable(tensor: Tensor) -> str | None:
    """Say why a tensor cannot be a weight; None if it can."""
    if tensor.is_meta:
        return "has a shape but no values (it was saved from the device meta); save it with values"
    kind = None
    if tensor.is_nested:
        kind = "nested"
    elif tensor.layout != torch.strided:
        kind = str(tensor.layout).removeprefix("torch.")
    elif not _is_number(tensor.dtype):
        kind = str(tensor.dtype).removeprefix("torch.")
    if kind is not None:
        return f"is {kind}, which no network takes; save it as a dense floating-point tensor"
    if tensor.nbytes > max(tensor.untyped_storage().nbytes(), _LARGEST_REPEATED):
        return f"claims {tensor.numel():,} values but stores fewer; save all of them"
    return None


@cache
def _is_number(dtype: torch.dtype) -> bool:
    """Whether a dtype is neither packed nor quantised."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # some are experimental
            torch.empty(1, dtype=dtype).to(torch.complex64)
    except RuntimeError:
        return False
    return True


def _without_prefixes(
    state: Mapping[Any, Tensor], names: Set[str], trained_by_others: bool
) -> tuple[dict[str, Tensor], str]:
    """Remove prefixes of wrappers and owners; return the state dict and the removed prefix.

    If a training program saved more than the network (losses, a discriminator), only the tensors
    under the network's usual prefix are kept.
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
    if not any("_orig_mod." in name for name in names):  # submodules that were compiled alone
        bare = {name.replace("_orig_mod.", ""): value for name, value in bare.items()}
    return {name.removeprefix("module."): value for name, value in bare.items()}, prefix


def _contents(content: Mapping[Any, Any]) -> str:
    names = [shown(repr(name)) for name in content]
    some = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
    return f"The file holds {some or 'nothing'}"
