"""TensorBoard's writer, whose failure must not end a training."""

import logging
from collections.abc import Callable
from functools import wraps
from typing import Any

_logger = logging.getLogger("basicsr")


def survive_full_disk(original: Callable[..., Any]) -> Callable[..., Any]:
    """Make ``init_tb_logger`` return a writer whose first failure is logged once, not raised.

    Of several processes, only the first has a writer; the others get None.
    """

    @wraps(original)
    def init_tb_logger(log_dir: str) -> Any:
        writer = original(log_dir)
        return None if writer is None else _Survivor(writer, log_dir)

    return init_tb_logger


class _Survivor:
    """Passes calls to a writer until one of them fails."""

    def __init__(self, writer: Any, folder: str) -> None:
        self._writer = writer
        self._folder = folder
        self._failed = False

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._writer, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            try:
                return None if self._failed else method(*args, **kwargs)
            except OSError as error:
                self._failed = True
                _logger.error(
                    "%s: cannot be written (%s); TensorBoard gets no further values.",
                    self._folder,
                    error.strerror or error,
                )

        return call if callable(method) else method
