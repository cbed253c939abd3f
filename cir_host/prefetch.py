"""Corrections of BasicSR's prefetchers: they end, report errors, and run without a GPU."""

import queue
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import wraps
from typing import Any

import torch

from cir_host.errors import UserError

_END = object()


@dataclass(frozen=True)
class _Failure:
    error: BaseException


class PrefetchThread(Iterator[Any]):
    """Iterates over batches in a thread, ahead of its reader.

    It replaces BasicSR's ``PrefetchGenerator``, whose thread dies silently of an exception, so the
    reader waits forever. Here the reader gets the exception.
    """

    def __init__(self, batches: Iterator[Any], depth: int) -> None:
        self._batches = batches
        self._queue: queue.Queue[Any] = queue.Queue(depth)
        self._stop = threading.Event()
        self._over = False
        self._thread = threading.Thread(target=self._fill, name="prefetch", daemon=True)
        self._thread.start()

    def __next__(self) -> Any:
        if self._over:
            raise StopIteration
        item = self._queue.get()
        self._over = item is _END or isinstance(item, _Failure)
        if isinstance(item, _Failure):
            raise item.error
        if item is _END:
            raise StopIteration
        return item

    def stop(self) -> None:
        """Stop the thread, so that another reader can use the iterator."""
        self._stop.set()
        while self._thread.is_alive():
            try:
                self._queue.get(timeout=0.05)  # lets a blocked put() return
            except queue.Empty:
                continue
        self._over = True

    def _fill(self) -> None:
        last: object = _END
        try:
            for batch in self._batches:
                self._queue.put(batch)
                if self._stop.is_set():
                    break
        except BaseException as error:
            last = _Failure(error)
        self._queue.put(last)


def one_thread_at_a_time(original: Callable[..., Any]) -> Callable[..., Any]:
    """Make ``PrefetchDataLoader.__iter__`` stop its earlier thread before it starts another.

    With ``persistent_workers``, both would read from the same iterator.
    """

    @wraps(original)
    def __iter__(self: Any) -> Any:  # noqa: N807 (the method's own name)
        running = getattr(self, "_running_prefetch", None)
        if running is not None:
            running.stop()
        self._running_prefetch = original(self)
        return self._running_prefetch

    return __iter__


def lazy_start(_original: Callable[..., Any]) -> Callable[..., Any]:
    """Make ``CPUPrefetcher`` open its loader on the first read, not in the constructor.

    Otherwise ``reset`` at the start of the first epoch would open it a second time.
    """

    def __init__(self: Any, loader: Any) -> None:  # noqa: N807 (the method's own name)
        self.ori_loader = loader
        self.loader = _when_read(loader)

    return __init__


def start_at_reset(_original: Callable[..., Any]) -> Callable[..., Any]:
    """Make ``CUDAPrefetcher`` open its loader in ``reset``, which begins each epoch.

    The constructor would make the workers prepare batches that ``reset`` discards.
    """

    def __init__(self: Any, loader: Any, opt: Mapping[str, Any]) -> None:  # noqa: N807
        self.ori_loader = loader
        self.opt = opt
        self.stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        self.device = torch.device("cuda" if opt["num_gpu"] != 0 else "cpu")

    return __init__


def keep_until_used(original: Callable[..., Any]) -> Callable[..., Any]:
    """Make ``CUDAPrefetcher.next`` tell PyTorch which stream reads the batch.

    Otherwise the memory of a batch is free as soon as Python drops it, and the next batch is copied
    over it while the training, which may be several steps behind, still reads it.
    """

    @wraps(original)
    def next_batch(self: Any) -> Any:
        batch = original(self)
        for value in (batch or {}).values():
            if isinstance(value, torch.Tensor) and value.is_cuda:
                value.record_stream(torch.cuda.current_stream())
        return batch

    return next_batch


def _when_read(loader: Any) -> Iterator[Any]:
    yield from loader


def without_gpu(original: Callable[..., Any]) -> Callable[..., Any]:
    """Make ``create_train_val_dataloader`` prefetch with the CPU if there is no GPU."""

    @wraps(original)
    def create_train_val_dataloader(opt: dict[str, Any], logger: Any) -> Any:
        train = opt["datasets"]["train"]
        if train.get("prefetch_mode") == "cuda" and not torch.cuda.is_available():
            logger.warning("datasets.train.prefetch_mode: there is no GPU; using cpu.")
            train["prefetch_mode"] = "cpu"
        return original(opt, logger)

    return create_train_val_dataloader


def one_line_errors(original: Callable[..., Any]) -> Callable[..., Any]:
    """Make a method that reads batches raise a worker's ``UserError`` with its original message.

    PyTorch puts the worker's traceback into the message; that error remains as the cause.
    """

    @wraps(original)
    def read(self: Any) -> Any:
        try:
            return original(self)
        except UserError as error:
            own = re.findall(rf"^[\w.]*\b{type(error).__name__}: (.*)$", str(error), re.MULTILINE)
            if not own:
                raise
            raise type(error)(own[-1]) from error

    return read
