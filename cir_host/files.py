"""Writing files whole or not at all, and reading regular files only."""

import errno
import os
import stat
from collections.abc import Callable
from hashlib import blake2b
from pathlib import Path
from threading import get_ident
from typing import IO, Any

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

PART = ".part"
"""Suffix of a file that is being written; a killed run may leave one behind."""


def part_of(path: Path) -> Path:
    """Return the temporary path beside a file, where it is written first.

    The name is always short, as file systems limit names to 255 bytes, and always the same for one
    file, so the next run replaces what a killed run left.
    """
    digest = blake2b(os.fsencode(path.name), digest_size=8).hexdigest()
    return path.with_name(f".{digest}{PART}")


def write_whole(path: Path, write: Callable[[IO[bytes]], Any]) -> None:
    """Write a file under a temporary name beside its path, then move it there.

    If the process is killed or the disk is full, the earlier file stays as it was. If two processes
    write one file at the same time, it is whole too, and that of the later one. When this returns,
    the new file is on the disk.

    Args:
        path: The file to write or replace. Its folder must exist.
        write: Writes the content into an open file.

    Raises:
        Exception: Whatever ``write`` or the system raises. The temporary file is removed.
    """
    part, file = _opened_part(path)
    try:
        with file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
            if fcntl is not None:
                part.replace(path)  # while it is locked
        if fcntl is None:
            part.replace(path)  # Windows does not rename open files
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def _opened_part(path: Path) -> tuple[Path, IO[bytes]]:
    """Open the temporary file of a path, or one of another name if somebody is writing it now."""
    part = part_of(path)
    if fcntl is None:
        return part, part.open("wb")
    file = open(part, "wb", opener=_open_without_truncation)  # noqa: SIM115  # it is returned
    if _locked(file, part):
        file.truncate()
        return part, file
    file.close()
    part = part.with_name(f"{part.stem}.{os.getpid()}-{get_ident()}{PART}")
    return part, part.open("wb")


def _open_without_truncation(path: str, flags: int) -> int:
    return os.open(path, flags & ~os.O_TRUNC, 0o666)


def _locked(file: IO[bytes], part: Path) -> bool:
    """Lock a temporary file; return whether it is this one, and nobody else has it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        pass  # a file system without locks
    try:
        return os.path.samestat(os.fstat(file.fileno()), part.stat())
    except FileNotFoundError:
        return False  # another process has renamed it meanwhile


def write_bytes_whole(path: Path, data: bytes) -> None:
    """Write bytes with :func:`write_whole`."""
    write_whole(path, lambda file: file.write(data))


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
