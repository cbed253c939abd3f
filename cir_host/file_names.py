"""File names that are short enough, distinct on every file system, and printable."""

import os
import unicodedata
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path

LONGEST_NAME = 255
"""Bytes; the limit of nearly all file systems for the name of a file or folder."""


def short_name(stem: str, ending: str = "", longest: int = LONGEST_NAME) -> str:
    """Return ``stem + ending``, with the stem cut if the name is too long.

    A cut stem ends in a digest of the whole stem, so names stay distinct.

    Args:
        stem: The part that may be cut.
        ending: The part that is kept whole, such as ``.png``.
        longest: The most bytes that the result may have.

    Example:
        >>> short_name("holiday", ".png")
        'holiday.png'
        >>> len(short_name("holiday" * 50, ".png"))
        255
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
    """Return a key that is equal for names that some file system treats as the same.

    Such names differ only in case or in Unicode normal form.
    """
    return unicodedata.normalize("NFD", unicodedata.normalize("NFD", name).casefold())


def printable(text: str) -> str:
    """Return a text on one line that can be encoded as UTF-8.

    Characters that cannot be printed, such as line breaks and bytes of file names that are not
    UTF-8, are written with backslashes.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def expanded(path: str) -> Path:
    """Return a path with a leading ``~`` or ``~user`` replaced by the home folder.

    A path that exists literally, or whose user is unknown, is returned unchanged.
    """
    with suppress(RuntimeError):  # no such user
        return Path(path) if os.path.lexists(path) else Path(path).expanduser()
    return Path(path)


def _byte_count(name: str) -> int:
    """Return the bytes of a name, in which a byte that is not UTF-8 is one surrogate."""
    escaped = sum("\udc80" <= character <= "\udcff" for character in name)
    return len(name.encode("utf-8", "surrogatepass")) - 2 * escaped
