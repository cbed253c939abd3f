"""The moment at which BasicSR is imported, whoever imports it: mended before, completed after.

Networks, loading and restoring need nothing of BasicSR, whose import takes seconds. Importing a
package of ours therefore imports BasicSR neither; it waits for whoever does. BasicSR is then made
importable (:mod:`cir_host.compat`), imported, patched (:mod:`cir_host.patches`), and its registries
receive what our packages register (:mod:`cir_host.registration`).
"""

import importlib.util
import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType

_BASICSR = "basicsr"

_waiting: list[str] = []
"""Modules to import once BasicSR is there, as they register what BasicSR builds."""

_complete = False

_begun = 0
"""Modules of this package whose import has begun and not finished."""


def after_basicsr(module: str) -> None:
    """Import a module once BasicSR is imported; at once where it is."""
    if _complete:
        import_module(module)
    else:
        _waiting.append(module)


def watch() -> None:
    """Wait for the import of BasicSR; complete it at once where it is imported already."""
    if _BASICSR in sys.modules:
        complete()
    elif not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


def complete() -> None:
    """Patch BasicSR, which is imported, and fill its registries.

    Where a module of this package imports BasicSR, this waits for the end of that module: patches
    may need it.
    """
    global _complete
    if _begun:
        return
    from cir_host import patches, registration

    if not _complete:
        patches.apply()
        registration.fill_registries()
        _complete = True
        for module in _waiting:
            import_module(module)


class _Finder(MetaPathFinder):
    """Finds BasicSR and this package as all other finders do, with our loader around theirs."""

    def __init__(self) -> None:
        self._asking = False

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname.startswith(f"{__package__}."):
            found = PathFinder.find_spec(fullname, path, target)
            if found is not None and found.loader is not None:
                found.loader = _OwnLoader(found.loader)
            return found
        if fullname != _BASICSR or self._asking:
            return None
        self._asking = True
        try:
            spec = importlib.util.find_spec(fullname)
        finally:
            self._asking = False
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader)
        return spec


class _Wrapper(Loader):
    """Does what another loader does, unless a subclass says otherwise."""

    def __init__(self, original: Loader) -> None:
        self._original = original

    def __getattr__(self, name: str) -> object:
        return getattr(self._original, name)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._original.create_module(spec)


class _Loader(_Wrapper):
    """Runs BasicSR's own loader between what comes before and after."""

    def exec_module(self, module: ModuleType) -> None:
        from cir_host.compat import supply_missing_modules, warnings_stay_warnings

        with warnings_stay_warnings():
            supply_missing_modules()
            self._original.exec_module(module)
            complete()


class _OwnLoader(_Wrapper):
    """Completes BasicSR after a module of this package that has imported it."""

    def exec_module(self, module: ModuleType) -> None:
        global _begun
        _begun += 1
        before = _BASICSR in sys.modules
        try:
            self._original.exec_module(module)
        finally:
            _begun -= 1
        if not before and _BASICSR in sys.modules:
            complete()
