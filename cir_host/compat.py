"""What BasicSR 1.4.2 and the packages around it need to be imported at all."""

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
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


@contextmanager
def warnings_stay_warnings() -> Iterator[None]:
    """Show warnings as ever where ``PYTHONWARNINGS=error`` or ``-W error`` makes errors of them.

    The packages that we import and call warn of their own code, which no user can change.
    """
    if not any(action == "error" for action, *_ in warnings.filters):
        yield  # what a package sets when it is imported shall stay
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
