"""Modules that BasicSR 1.4.2 imports and that newer torchvision and SciPy no longer have."""

import sys
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType


def supply_missing_modules() -> None:
    """Put stand-ins for removed modules into ``sys.modules``. Must run before ``import basicsr``.

    - torchvision >= 0.17 has no ``transforms.functional_tensor``; BasicSR's
      ``data/degradations.py`` takes ``rgb_to_grayscale`` from it.
    - SciPy 2 has no ``ndimage.filters``; ``metrics/niqe.py`` takes ``convolve`` from it.
    """
    _stand_in("torchvision.transforms.functional_tensor", "torchvision.transforms.functional")
    _stand_in("scipy.ndimage.filters", "scipy.ndimage")


def _stand_in(missing: str, source: str) -> None:
    if missing in sys.modules or find_spec(missing) is not None:
        return
    module = ModuleType(missing, f"Stand-in for {missing}: the names of {source}.")
    module.__dict__.update(
        {k: v for k, v in vars(import_module(source)).items() if not k.startswith("__")}
    )
    sys.modules[missing] = module
