"""Worker processes that return results in order and end with the main process."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import parent_process
from signal import SIG_IGN, SIGINT, signal
from threading import Thread
from typing import TypeVar

from cir_host.errors import UserError

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def ordered_map(
    function: Callable[[_Item], _Result], items: Iterable[_Item], workers: int
) -> Iterator[_Result]:
    """Yield the results of a function in the order of the items; only a few wait in memory.

    Args:
        function: A function that can be pickled, as well as its arguments and results.
        items: Its arguments, one per call.
        workers: Number of processes; with 1, this process does the work.

    Raises:
        UserError: A process was killed.
    """
    if workers <= 1:
        yield from map(function, items)
        return
    with ProcessPoolExecutor(workers, initializer=_begin_worker) as pool:
        try:
            yield from _in_order(pool, function, items, 2 * workers)
        except BrokenProcessPool as error:
            raise UserError(
                "a worker process was killed, perhaps because memory ran out; to resume, repeat"
                " the command with fewer --workers"
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


def _in_order(
    pool: Executor, function: Callable[[_Item], _Result], items: Iterable[_Item], waiting: int
) -> Iterator[_Result]:
    futures: deque[Future[_Result]] = deque()
    for item in items:
        futures.append(pool.submit(function, item))
        if len(futures) > waiting:
            yield futures.popleft().result()
    while futures:
        yield futures.popleft().result()


def _begin_worker() -> None:
    """Leave Ctrl-C to the main process, and exit with it even if it is killed."""
    signal(SIGINT, SIG_IGN)
    Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
