"""A root that holds images, and one image in it: the interface of folders and LMDBs."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from cir_data.messages import first_few
from cir_data.storage.skipped_files import SkippedFiles
from cir_host.errors import UserError


class ImageSource(ABC):
    """Images under one root. The name of an image is its path relative to the root.

    Raises:
        UserError: The root does not exist.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.skipped = SkippedFiles()
        """Filled by :meth:`names`."""
        self._prefix = str(root / "x")[:-1]

    @abstractmethod
    def names(self, listed: Sequence[str] | None = None) -> Sequence[str]:
        """Return all names, or those listed: with forward slashes and suffix, no two alike.

        Raises:
            UserError: A listed image does not exist, or there are no images.
        """

    def path(self, name: str) -> str:
        """Return the path of an image, for messages and samples."""
        return self._prefix + name  # 20 times as fast as pathlib, and called for each sample

    @abstractmethod
    def read(self, name: str) -> bytes | memoryview:
        """Return the encoded image, without looking at its content.

        A view is valid while this process keeps its LMDB open, which is until the process ends.

        Raises:
            UserError: It does not exist or cannot be read.
        """

    def _find(self, listed: Sequence[str], exists: Callable[[str], bool]) -> list[str]:
        """Return listed names as they exist: as written, or with forward slashes.

        Raises:
            UserError: One exists under neither name.
        """
        found = {
            name: next(filter(exists, (name, name.replace("\\", "/"))), None) for name in listed
        }
        missing = [name for name, there in found.items() if there is None]
        if missing:
            raise UserError(
                f"{self.root}: missing images that the meta_info_file lists: {first_few(missing)}"
            )
        return [found[name] or name for name in listed]


class StoredImage(NamedTuple):
    """One image of a source."""

    source: ImageSource
    name: str

    @property
    def path(self) -> str:
        """Its path, for messages and samples."""
        return self.source.path(self.name)

    @property
    def stem(self) -> str:
        """Its name without the suffix."""
        return stem_of(self.name)

    def read(self) -> bytes | memoryview:
        """Return the encoded image; see :meth:`ImageSource.read`."""
        return self.source.read(self.name)


def stem_of(name: str) -> str:
    """Return a name without its suffix.

    Example:
        >>> stem_of("sub/a.b.png")
        'sub/a.b'
    """
    path = PurePosixPath(name)
    return path.with_suffix("").as_posix() if path.name else name
