"""Writing files whole or not at all, and reading regular files only."""

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path
from threading import get_ident
from typing import IO, Any

from cir_host.file_names import short_name

PART = ".part"
"""Suffix of a file that is being written; a killed run may leave one behind."""


def part_of(path: Path) -> Path:
    """Return the temporary path beside a file, where it is written first.

    The name is hidden, so nobody takes the file for an image or a checkpoint. It holds the process
    and the thread, so that two of them can write one file at the same time.
    """
    ending = f".{os.getpid()}-{get_ident()}{PART}"
    return path.with_name(short_name(f".{path.name}", ending))


def write_whole(path: Path, write: Callable[[IO[bytes]], Any], replace: bool = True) -> None:
    """Write a file under a temporary name beside its path, then move it there.

    If the process is killed or the disk is full, the earlier file stays as it was. If several
    processes or threads write one file at the same time, it is whole too, and that of the last.
    When this returns, the new file is on the disk.

    Args:
        path: The file to write or replace. Its folder must exist.
        write: Writes the content into an open file.
        replace: Whether an existing file is replaced.

    Raises:
        FileExistsError: The path exists, and ``replace`` is not set; also if another process wrote
            it just now.
        Exception: Whatever ``write`` or the system raises. The temporary file is removed.
    """
    part = part_of(path)
    try:
        with part.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        if replace or not _linked(part, path):
            part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _linked(part: Path, path: Path) -> bool:
    """Give a file a second name; return False if its file system has no such links.

    Raises:
        FileExistsError: The path exists.
    """
    try:
        os.link(part, path)
    except OSError:
        if os.path.lexists(path):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path)) from None
        return False
    return True


def write_bytes_whole(path: Path, data: bytes, replace: bool = True) -> None:
    """Write bytes with :func:`write_whole`."""
    write_whole(path, lambda file: file.write(data), replace)


def write_text_whole(path: Path, text: str) -> None:
    """Write a text as UTF-8 with :func:`write_whole`.

    Bytes of file names that are not UTF-8 are written with backslashes, so every program can read
    the text. In JSON these escapes stand for the same name.
    """
    write_bytes_whole(path, text.encode(errors="backslashreplace"))


def read_regular(path: Path) -> bytes:
    """Return the content of a regular file.

    Raises:
        OSError: It cannot be read, or is a pipe or device, which might never end.
    """
    with open(path, "rb", opener=_open_without_waiting) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.EINVAL, "a pipe or device, not a regular file", str(path))
        return file.read()


def _open_without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))
