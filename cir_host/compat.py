"""Fixes without which BasicSR 1.4.2 cannot be imported beside current packages."""

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType


def supply_missing_modules() -> None:
    """Put replacements of removed modules into ``sys.modules``; call it before importing BasicSR.

    - torchvision >= 0.17 has no ``transforms.functional_tensor``; BasicSR's
      ``data/degradations.py`` imports ``rgb_to_grayscale`` from it.
    - SciPy 2 has no ``ndimage.filters``; ``metrics/niqe.py`` imports ``convolve`` from it.
    """
    _stand_in("torchvision.transforms.functional_tensor", "torchvision.transforms.functional")
    _stand_in("scipy.ndimage.filters", "scipy.ndimage")


@contextmanager
def warnings_stay_warnings() -> Iterator[None]:
    """Keep warnings from becoming errors under ``PYTHONWARNINGS=error`` or ``-W error``.

    They concern the code of the packages that we import, which users cannot change.
    """
    if not any(action == "error" for action, *_ in warnings.filters):
        yield  # filters that a package sets on import must remain
        return
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        yield


def _stand_in(missing: str, source: str) -> None:
    if missing in sys.modules or find_spec(missing) is not None:
        return
    module = ModuleType(missing, f"Stand-in for {missing}: the names of {source}.")
    module.__dict__.update(
        {k: v for k, v in vars(import_module(source)).items() if not k.startswith("__")}
    )
    sys.modules[missing] = module
