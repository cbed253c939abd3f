"""Images in a folder and its subfolders."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from cir_data.images.errors import UnreadableImage
from cir_data.images.formats import IN_DATA_SETS
from cir_data.storage.image_source import ImageSource
from cir_data.storage.skipped_files import SkippedFiles
from cir_host.errors import UserError
from cir_host.files import read_regular


class FolderSource(ImageSource):
    """A folder with its subfolders. Hidden files and folders are ignored."""

    def __init__(self, root: Path) -> None:
        if not os.path.isdir(root):  # noqa: PTH112 (raises nothing)
            raise UserError(f"{root}: no such folder")
        super().__init__(root)

    def names(self, listed: Sequence[str] | None = None) -> Sequence[str]:
        """Return all names, sorted, or those listed; see :meth:`ImageSource.names`."""
        return self._find(listed, self._holds) if listed else self._scan()

    def _holds(self, name: str) -> bool:
        return os.path.isfile(self.root / name)  # noqa: PTH113 (raises nothing)

    def _scan(self) -> list[str]:
        self.skipped = SkippedFiles()
        names = sorted(_images_below(self.root, self.skipped))
        self.skipped.unusable.sort()
        if not names:
            others = [*self.skipped.unusable[:3], self.skipped.describe()]
            instead = f"; it holds {', '.join(filter(None, others))}" if any(others) else ""
            taken = ", ".join(sorted(IN_DATA_SETS))
            raise UserError(f"{self.root}: no images in it ({taken}){instead}")
        return names

    def read(self, name: str) -> bytes:
        """Return the file's content; see :meth:`ImageSource.read`."""
        path = self.root / name
        try:
            return read_regular(path)
        except FileNotFoundError as error:
            raise UserError(f"{path}: {error.strerror}") from error
        except (OSError, ValueError) as error:
            raise UnreadableImage(f"{path}: {getattr(error, 'strerror', None) or error}") from error
        except MemoryError as error:
            raise UnreadableImage(f"{path}: too large for the memory of this machine") from error


def _images_below(root: Path, skipped: SkippedFiles) -> Iterator[str]:
    """Yield names relative to the root. Links to folders are followed, but never in a circle."""
    waiting: list[tuple[str, frozenset[tuple[int, int]]]] = [("", frozenset())]
    while waiting:
        below, parents = waiting.pop()
        try:
            status = (root / below).stat()
            identity = status.st_dev, status.st_ino
            if identity in parents:
                continue
            with os.scandir(root / below) as entries:
                found = [entry for entry in entries if not entry.name.startswith(".")]
        except OSError as error:
            skipped.unusable.append(f"{root / below}: cannot be listed ({error.strerror})")
            continue
        for entry in found:
            name = f"{below}{entry.name}"
            try:
                if entry.is_dir():
                    waiting.append((f"{name}/", parents | {identity}))
                    continue
                regular = entry.is_file()
                dangling = not regular and entry.is_symlink() and not Path(entry).exists()
            except OSError as error:
                skipped.unusable.append(f"{root / name}: {error.strerror}")
                continue
            suffix = PurePosixPath(entry.name).suffix.lower()
            if dangling:
                skipped.unusable.append(f"{root / name}: a link to nothing")
            elif suffix not in IN_DATA_SETS:
                skipped.suffixes[suffix] += 1
            elif not regular:
                skipped.unusable.append(f"{root / name}: a pipe or device, not a file")
            else:
                yield name
