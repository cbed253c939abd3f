"""Reading users' text files in the encoding in which their editor saved them."""

import codecs
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # begins with the mark of UTF-16
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def encoding_of(file: Path) -> str:
    """Return the encoding that a file's byte order mark states; UTF-8 if it has none.

    Notepad writes a mark, and PowerShell's ``>`` writes UTF-16.

    Raises:
        OSError: The file cannot be read.
    """
    if not file.is_file():  # reading from a pipe would consume it
        return "utf-8"
    with file.open("rb") as stream:
        start = stream.read(4)
    return next((name for mark, name in _MARKS if start.startswith(mark)), "utf-8")


def open_in_its_encoding(original: Callable[..., Any]) -> Callable[..., Any]:
    """Make the ``open`` of a module of BasicSR independent of the locale.

    A file is read and rewritten in the encoding of its byte order mark; other files are UTF-8.
    """

    @wraps(original)
    def open(file: Any, mode: str = "r", **kwargs: Any) -> Any:  # noqa: A001 (takes its place)
        if "b" not in mode:
            encoding = encoding_of(Path(file)) if "r" in mode else "utf-8"
            errors = "strict"
            if mode != "r":  # BasicSR writes the command line, which may hold undecodable bytes
                errors = "surrogateescape" if encoding.startswith("utf-8") else "backslashreplace"
            kwargs = {"encoding": encoding, "errors": errors, **kwargs}
        return original(file, mode, **kwargs)

    return open
