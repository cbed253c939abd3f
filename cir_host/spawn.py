"""Spawned data loader workers, which must import this package before BasicSR.

A worker unpickles its data set, which imports the data set's module and BasicSR. If the main script
cannot be imported again, nothing has installed the import hook by then. So the pickle of every data
set that is not ours begins with a function of this module.
"""

import copyreg
from collections.abc import Callable
from typing import Any

from cir_host.ownership import is_ours


def import_host_first(dataset: object) -> None:
    """Pickle a data set, and those of every registered class, as this module describes."""
    from basicsr.utils.registry import DATASET_REGISTRY  # a worker imports this module first

    for cls in (type(dataset), *(cls for _, cls in DATASET_REGISTRY)):
        if isinstance(cls, type) and not is_ours(cls) and cls not in copyreg.dispatch_table:
            copyreg.pickle(cls, _reduce)


def _reduce(instance: object) -> str | tuple[Any, ...]:
    reduced = instance.__reduce_ex__(2)
    if isinstance(reduced, str):
        return reduced
    build, args, *state = reduced
    return _rebuild, (build, *args), *state


def _rebuild(build: Callable[..., Any], *args: Any) -> Any:
    return build(*args)
