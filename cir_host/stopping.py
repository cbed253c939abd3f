"""On SIGTERM, which clusters send before they kill a job, save the state and exit."""

import signal
import threading
from collections.abc import Callable
from functools import wraps
from types import FrameType
from typing import Any

from basicsr.utils import get_root_logger

from cir_host.distributed import any_process

_asked = threading.Event()


class Stopped(SystemExit):
    """Raised when a run was asked to stop and has saved its state."""

    def __init__(self) -> None:
        super().__init__(128 + signal.SIGTERM)


def stopping() -> bool:
    """Whether this process was asked to stop, so that long work may be skipped."""
    return _asked.is_set()


def stop_on_sigterm(original: Callable[..., Any]) -> Callable[..., Any]:
    """Make ``train_pipeline`` save the state after the current iteration on SIGTERM, and exit.

    The exit status is 143, the usual one of a process that SIGTERM ends.
    """

    @wraps(original)
    def train_pipeline(root_path: str) -> None:
        if threading.current_thread() is not threading.main_thread():
            original(root_path)
            return
        before = signal.signal(signal.SIGTERM, _ask)
        try:
            original(root_path)
            if stopping():  # after the last iteration, the validation was skipped
                raise Stopped
        finally:
            signal.signal(signal.SIGTERM, before)
            _asked.clear()

    return train_pipeline


def save_and_stop(original: Callable[..., Any]) -> Callable[..., Any]:
    """Make ``BaseModel.update_learning_rate``, which begins an iteration, end a stopping run.

    Raises:
        Stopped: The state of the previous iteration is saved.
    """

    @wraps(original)
    def update_learning_rate(self: Any, current_iter: int, *args: Any, **kwargs: Any) -> None:
        if any_process(stopping()):
            done = current_iter - 1
            if getattr(self, "_saved_at", None) != done:
                self.save(-1, done)
            get_root_logger().warning(
                f"Stopped by SIGTERM after iteration {done}, whose state is saved; resume with"
                " --auto_resume."
            )
            raise Stopped
        original(self, current_iter, *args, **kwargs)

    return update_learning_rate


def _ask(_signal: int, _frame: FrameType | None) -> None:
    _asked.set()
