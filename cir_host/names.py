"""Names in an options file that BasicSR makes parts of paths of."""

import reprlib
import unicodedata
from pathlib import PurePath
from typing import Any

from cir_host.errors import OptionsError

MOST_BYTES = 255 - len("train_debug__20240131_235959.log")
"""File systems take names of 255 bytes; the longest that a name becomes part of is the log file."""

_UNPRINTABLE = {"Cc", "Cs", "Zl", "Zp"}
"""Unicode's categories of control characters, of bytes that are not UTF-8, and of line breaks."""


def check_name(value: Any, where: str) -> None:
    """Refuse what cannot be the name of one folder, or a part of a file's name.

    Args:
        value: What the options say.
        where: The key in messages, such as ``datasets.val.name``.

    Raises:
        OptionsError: The value is no text, names another folder or several, or cannot be a name.
    """
    if not _is_sound(value):
        raise OptionsError(
            f"{where}: {reprlib.repr(value)} cannot name a folder; write a text (a number in"
            f" quotes) of 1 to {MOST_BYTES} bytes without / and \\, control characters, and blanks"
            " at its ends, and not . or .."
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
