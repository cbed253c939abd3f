"""An import hook that patches BasicSR when something imports it.

Networks, loading and restoring do not need BasicSR, whose import takes seconds, so our packages do
not import it. Whoever does triggers this hook: it supplies missing modules
(:mod:`cir_host.compat`), imports BasicSR, applies the patches (:mod:`cir_host.patches`) and fills
BasicSR's registries with what our packages register (:mod:`cir_host.registration`).
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
"""Modules to import after BasicSR, because they register classes that BasicSR builds."""

_complete = False

_begun = 0
"""How many modules of this package are being imported."""


def after_basicsr(module: str) -> None:
    """Import a module after BasicSR; now if BasicSR is already imported."""
    if _complete:
        import_module(module)
    else:
        _waiting.append(module)


def watch() -> None:
    """Install the import hook; if BasicSR is already imported, complete it now."""
    if _BASICSR in sys.modules:
        complete()
    elif not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


def complete() -> None:
    """Patch the imported BasicSR and fill its registries.

    While a module of this package is being imported, this does nothing and is called again
    afterwards, since the patches may need that module.
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
    """Finds BasicSR and this package like the standard finders, and wraps their loaders."""

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
    """A loader that delegates to another one."""

    def __init__(self, original: Loader) -> None:
        self._original = original

    def __getattr__(self, name: str) -> object:
        return getattr(self._original, name)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._original.create_module(spec)


class _Loader(_Wrapper):
    """Supplies missing modules, runs BasicSR's own loader, then completes BasicSR."""

    def exec_module(self, module: ModuleType) -> None:
        from cir_host.compat import supply_missing_modules, warnings_stay_warnings

        with warnings_stay_warnings():
            supply_missing_modules()
            self._original.exec_module(module)
            complete()


class _OwnLoader(_Wrapper):
    """Completes BasicSR after a module of this package has imported it."""

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
