"""Every change that basicsr-cir makes to BasicSR, in one table.

A patch replaces one attribute of a BasicSR module or class by what its ``wrap`` makes of the
original. The rows are those of the README's table of defects. BasicSR's own files stay untouched,
and each replacement is harmless where upstream has mended the defect.
"""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any


@dataclass(frozen=True)
class Patch:
    """One replaced attribute of BasicSR."""

    target: str
    """``module:attribute``, with dots in the attribute for a class member."""
    wrap: Callable[[Any], Any]
    """Takes the original attribute, returns the replacement."""
    rows: tuple[int, ...]
    """Numbers of the defects that it answers."""
    defect: str
    """What goes wrong without it, in one line."""


PATCHES: tuple[Patch, ...] = ()

_originals: dict[str, Any] = {}


def apply() -> None:
    """Apply every patch once; later calls do nothing."""
    for patch in PATCHES:
        if patch.target not in _originals:
            owner, name = _locate(patch.target)
            _originals[patch.target] = getattr(owner, name)
            setattr(owner, name, patch.wrap(_originals[patch.target]))


def original(target: str) -> Any:
    """Return BasicSR's own attribute behind a patched target."""
    return _originals[target]


def _locate(target: str) -> tuple[Any, str]:
    module, _, path = target.partition(":")
    owner: Any = import_module(module)
    *parents, name = path.split(".")
    for parent in parents:
        owner = getattr(owner, parent)
    return owner, name
