"""The log file of BasicSR: its encoding, and warnings from before it exists."""

import logging
import sys
from collections.abc import Callable, Iterable
from functools import wraps
from typing import Any

_early: list[str] = []
"""Warnings that the log file will get once it exists."""


def warn_before_log(warnings: Iterable[str]) -> None:
    """Print warnings, and keep them, instead of earlier ones, for the log file to come."""
    _early[:] = warnings
    for warning in _early:
        print(f"warning: {warning}", file=sys.stderr)  # noqa: T201 (no logger exists yet)


def log_file_in_utf8(original: Callable[..., Any]) -> Callable[..., Any]:
    """Make the log file UTF-8 in every locale, and write earlier warnings to it."""

    @wraps(original)
    def get_root_logger(*args: Any, **kwargs: Any) -> logging.Logger:
        logger: logging.Logger = original(*args, **kwargs)
        for handler in logger.handlers:
            if isinstance(handler, logging.FileHandler) and handler.stream is not None:
                handler.stream.reconfigure(encoding="utf-8", errors="backslashreplace")
                for warning in _early:
                    record = (logger.name, logging.WARNING, "", 0, "%s", (warning,), None)
                    handler.handle(logging.LogRecord(*record))
        _early.clear()
        return logger

    return get_root_logger
