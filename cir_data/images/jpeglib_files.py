"""The package ``jpeglib``, and files for it: it takes paths only."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from cir_host.extras import needs_extra

_MEMORY = Path("/dev/shm")


def require_jpeglib(purpose: str = "reading the coefficients of a JPEG") -> ModuleType:
    """Return ``jpeglib``.

    Args:
        purpose: What needs it, for the message.

    Raises:
        UserError: It is not installed.
    """
    return needs_extra("jpeglib", "libjpeg", purpose)


@contextmanager
def temporary_jpeg() -> Iterator[Path]:
    """Yield a path for a file, which is deleted afterwards; in memory if the system supports it."""
    with tempfile.TemporaryDirectory(dir=_MEMORY if _MEMORY.is_dir() else None) as folder:
        yield Path(folder) / "image.jpg"
