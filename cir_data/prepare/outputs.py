"""Where a preparation writes: whether it may, how much space is free, and what it did."""

import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path

from cir_host.errors import UserError


@dataclass
class PreparationReport:
    """What a preparation did."""

    images: int = 0
    """Source images that were stored."""
    entries: int = 0
    """Images or sub-images that were stored."""
    coarse: list[str] = field(default_factory=list)
    """One line for each image skipped as a JPEG of low quality."""
    unreadable: list[str] = field(default_factory=list)
    """One line for each image or folder that cannot be read."""


def check_output(output: Path, overwrite: bool) -> bool:
    """Return whether the output exists and will be overwritten.

    Raises:
        UserError: It exists and ``overwrite`` is not set, or the path cannot be used.
    """
    try:
        output.lstat()
    except FileNotFoundError:
        return False
    except (OSError, ValueError) as error:
        raise UserError(f"{output}: {getattr(error, 'strerror', None) or error}") from error
    if not overwrite:
        raise UserError(f"{output}: exists already; give --overwrite to replace it")
    return True


def free_bytes(path: Path) -> int:
    """Return the free space on the disk that holds, or will hold, a path."""
    folder = path.absolute()
    while not os.path.isdir(folder):  # noqa: PTH112 (raises nothing)
        folder = folder.parent
    return shutil.disk_usage(folder).free
