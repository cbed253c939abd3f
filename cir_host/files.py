"""Files written whole or not at all, and read only where they have an end."""

import errno
import os
import stat
from collections.abc import Callable
from hashlib import blake2b
from pathlib import Path
from typing import IO, Any

PART = ".part"
"""Ending of a file that is being written; one left behind belongs to a killed run."""


def part_of(path: Path) -> Path:
    """Return where a file is written until it takes its place: beside it.

    The name is short whatever the file's is, as file systems limit names to 255 bytes, and always
    the same for one file, so that the next run replaces what a killed one left.
    """
    digest = blake2b(os.fsencode(path.name), digest_size=8).hexdigest()
    return path.with_name(f".{digest}{PART}")


def write_whole(path: Path, write: Callable[[IO[bytes]], Any]) -> None:
    """Write a file beside its place, then move it there.

    A process killed here, or a full disk, leaves the earlier file as it was; once this returns, the
    new one is on the disk.

    Args:
        path: The file to make or replace; its folder exists.
        write: Writes the content into an open file.

    Raises:
        Exception: Whatever ``write`` or the system raises; nothing is left behind then.
    """
    part = part_of(path)
    try:
        with part.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def write_bytes_whole(path: Path, data: bytes) -> None:
    """Write bytes as :func:`write_whole` does."""
    write_whole(path, lambda file: file.write(data))


def write_text_whole(path: Path, text: str) -> None:
    """Write a text in UTF-8 as :func:`write_whole` does.

    Bytes of file names that are not UTF-8 are written with backslashes, so that every program can
    read the text; in JSON they stand for the same name.
    """
    write_bytes_whole(path, text.encode(errors="backslashreplace"))


def read_regular(path: Path) -> bytes:
    """Return the content of a regular file.

    Raises:
        OSError: It cannot be read, or is a pipe or a device, which might never end.
    """
    with open(path, "rb", opener=_open_without_waiting) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.EINVAL, "a pipe or device, not a regular file", str(path))
        return file.read()


def _open_without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))
