"""Registration in BasicSR's registries that never replaces another package's entry."""

import logging
import sys
from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeVar, cast

from cir_host.ownership import is_ours, package_of

if TYPE_CHECKING:  # registering does not import BasicSR
    from basicsr.utils.registry import Registry

T = TypeVar("T", bound=Callable[..., Any])

Kind: TypeAlias = Literal["arch", "dataset", "model", "loss", "metric"]
"""The kinds of objects that BasicSR has a registry for."""

_REGISTRIES = "basicsr.utils.registry"

_logger = logging.getLogger("basicsr")

_waiting: list[tuple[Kind, Callable[..., Any]]] = []
"""Objects registered before BasicSR was imported."""


def register(registry: "Kind | Registry") -> Callable[[T], T]:
    """Return a decorator that registers a class or function under its ``__name__``.

    The first holder of a name keeps it: if another package holds the name, ours is registered as
    ``NAME_cir``, with a warning. Registering the same object again, as a second import or a reload
    does, replaces it silently.

    Args:
        registry: One of BasicSR's registries, or its kind. Given a kind, BasicSR need not be
            imported: its registry receives the object when it is.
    """

    def decorate(obj: T) -> T:
        if not isinstance(registry, str):
            _put(registry, obj)
        elif _REGISTRIES in sys.modules:
            _put(_registry_of(cast(Kind, registry)), obj)
        else:
            _waiting.append((cast(Kind, registry), obj))
        return obj

    return decorate


def fill_registries() -> None:
    """Move the objects registered before BasicSR was imported into its registries."""
    while _waiting:
        kind, obj = _waiting.pop(0)
        _put(_registry_of(kind), obj)


def _registry_of(kind: Kind) -> "Registry":
    return getattr(sys.modules[_REGISTRIES], f"{kind.upper()}_REGISTRY")


def _put(registry: "Registry", obj: Any) -> None:
    name = obj.__name__
    for candidate in (name, f"{name}_cir"):
        holder = registry._obj_map.get(candidate)
        if holder is None or _same_definition(holder, obj):
            registry._obj_map[candidate] = obj
            break
    else:
        raise RuntimeError(
            f"{name} and {name}_cir are both taken in BasicSR's {registry._name} registry"
        )
    if candidate != name and holder is None:
        _logger.warning(
            "%s in BasicSR's %s registry belongs to %s; that of basicsr-cir is %s.",
            name,
            registry._name,
            registry._obj_map[name].__module__,
            candidate,
        )


def beside_ours(original: Callable[..., None]) -> Callable[..., None]:
    """Make ``Registry._do_register`` accept a name that we already hold, as ``NAME_package``.

    BasicSR would end the import of the other package by an assertion. Here its object gets the
    package's name as a suffix, with a warning.
    """

    @wraps(original)
    def _do_register(self: "Registry", name: str, obj: Any, suffix: str | None = None) -> None:
        wanted = f"{name}_{suffix}" if isinstance(suffix, str) else name
        holder = self._obj_map.get(wanted)
        if holder is None or not is_ours(holder) or is_ours(obj):
            original(self, name, obj, suffix)
            return
        package = package_of(obj)
        original(self, wanted, obj, package)
        _logger.warning(
            "%s in BasicSR's %s registry belongs to basicsr-cir; that of %s is %s_%s.",
            wanted,
            self._name,
            package,
            wanted,
            package,
        )

    return _do_register


def _same_definition(first: object, second: object) -> bool:
    return (getattr(first, "__module__", None), getattr(first, "__qualname__", None)) == (
        getattr(second, "__module__", None),
        getattr(second, "__qualname__", None),
    )
