"""Names of files: short enough for every file system, distinct on it, and fit to be printed."""

import os
import unicodedata
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path

LONGEST_NAME = 255
"""Bytes of the name of a file or folder, on nearly all file systems."""


def short_name(stem: str, ending: str = "", longest: int = LONGEST_NAME) -> str:
    """Return ``stem + ending``, cut to fit where it is too long.

    A stem that is cut ends in a digest of the whole, so that names stay distinct.

    Args:
        stem: What may be cut.
        ending: What stays whole, such as ``.png``.
        longest: Bytes of the result at most.
    """
    if _byte_count(stem + ending) <= longest:
        return stem + ending
    mark = f"~{blake2b(stem.encode('utf-8', 'surrogatepass'), digest_size=8).hexdigest()}"
    room = max(0, longest - _byte_count(mark + ending))
    cut = stem[:room]
    while _byte_count(cut) > room:
        cut = cut[:-1]
    return cut + mark + ending


def folded(name: str) -> str:
    """Return what is alike for names that some file system takes for one.

    Such names differ in case, or in the Unicode normal form of their letters.
    """
    return unicodedata.normalize("NFD", unicodedata.normalize("NFD", name).casefold())


def printable(text: str) -> str:
    """Return a text on one line that every UTF-8 file takes.

    What cannot be printed, such as line breaks and the bytes of a file name that is not UTF-8, is
    written with backslashes.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def expanded(path: str) -> Path:
    """Return a path with the home folder for a leading ``~`` or ``~user``.

    A path that is there under its very name, or whose user is not known, stays as it is.
    """
    with suppress(RuntimeError):  # no such user
        return Path(path) if os.path.lexists(path) else Path(path).expanduser()
    return Path(path)


def _byte_count(name: str) -> int:
    """Bytes of a name; a byte that is not UTF-8 stands in it as a surrogate."""
    escaped = sum("\udc80" <= character <= "\udcff" for character in name)
    return len(name.encode("utf-8", "surrogatepass")) - 2 * escaped
