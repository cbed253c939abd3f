"""Names in an options file that become parts of paths."""

import reprlib
import unicodedata
from pathlib import PurePath
from typing import Any

from cir_host.errors import OptionsError

MOST_BYTES = 255 - len("train_debug__20240131_235959.log")
"""Names may have 255 bytes on most file systems; the log file has the longest one."""

_UNPRINTABLE = {"Cc", "Cs", "Zl", "Zp"}
"""Unicode categories of control characters, bytes that are not UTF-8, and line breaks."""


def check_name(value: Any, where: str) -> None:
    """Refuse a value that cannot be the name of one folder.

    Args:
        value: The value in the options file.
        where: The key, for messages, such as ``datasets.val.name``.

    Raises:
        OptionsError: The value is not a string, is a path, or cannot be a name.
    """
    if not _is_sound(value):
        raise OptionsError(
            f"{where}: {reprlib.repr(value)} cannot name a folder; write a string (numbers in"
            f" quotes) of 1 to {MOST_BYTES} bytes, without / or \\, control characters or blanks at"
            " the ends, other than . and .."
        )


def _is_sound(value: Any) -> bool:
    return (
        isinstance(value, str)
        and PurePath(value).name == value == value.strip()  # without a drive on Windows
        and value not in ("", ".", "..")
        and "\\" not in value
        and not any(unicodedata.category(character) in _UNPRINTABLE for character in value)
        and len(value.encode()) <= MOST_BYTES
    )
