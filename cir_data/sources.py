"""Where images are stored: folders and LMDB data bases behind one interface."""

import json
import os
import re
from abc import ABC, abstractmethod
from array import array
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, overload

import lmdb

from cir_host.errors import UserError

EXTENSIONS = frozenset({".png", ".webp", ".bmp", ".tif", ".tiff", ".jpg", ".jpeg", ".ppm", ".pgm"})

LMDB_SUFFIX = ".lmdb"

MANIFEST = "prepare.json"
"""The file by which ``basicsr prepare`` says what it made."""


class ImageSource(ABC):
    """Images under one root, each with its path relative to the root as its name.

    Raises:
        UserError: There is no such root.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._prefix = str(root / "x")[:-1]

    @abstractmethod
    def names(self, listed: Sequence[str] | None = None) -> Sequence[str]:
        """Return all names, or those listed: with forward slashes and extension, no two alike.

        Raises:
            UserError: Images are listed that are not there, or there are none.
        """

    def path(self, name: str) -> str:
        """Return where an image is, for messages and samples."""
        return self._prefix + name  # once for each sample: pathlib takes a twentieth of its time

    @abstractmethod
    def read(self, name: str) -> bytes | memoryview:
        """Return the encoded image.

        A view is valid as long as this process keeps its data base open, which is until it ends.

        Raises:
            UserError: It is not there or cannot be read. Its content is not looked at.
        """


class StoredImage(NamedTuple):
    """One image of a source."""

    source: ImageSource
    name: str

    @property
    def path(self) -> str:
        """Where it is, for messages and samples."""
        return self.source.path(self.name)

    @property
    def stem(self) -> str:
        """Its name without the extension."""
        return _stem(self.name)

    def read(self) -> bytes | memoryview:
        """Return the encoded image; see :meth:`ImageSource.read`."""
        return self.source.read(self.name)


class StoredImages(Sequence[StoredImage]):
    """Images as a data set keeps them: their names in one array, objects made when asked for.

    Counting the references to an object writes to it, so that a list of objects is copied, page by
    page, into the memory of every worker that reads it.
    """

    def __init__(self, images: Iterable[StoredImage]) -> None:
        sources: dict[ImageSource, int] = {}
        text, ends, of = bytearray(), array("q", [0]), array("i")
        for source, name in images:
            of.append(sources.setdefault(source, len(sources)))
            text += os.fsencode(name)
            ends.append(len(text))
        self._sources = list(sources)
        self._text, self._ends, self._of = bytes(text), ends, of

    def __len__(self) -> int:
        return len(self._of)

    @overload
    def __getitem__(self, index: int) -> StoredImage: ...

    @overload
    def __getitem__(self, index: slice) -> "StoredImages": ...

    def __getitem__(self, index: int | slice) -> "StoredImage | StoredImages":
        """Return one image; a slice gives several.

        Raises:
            IndexError: There is none at the index.
        """
        if isinstance(index, slice):
            return StoredImages(self[i] for i in range(*index.indices(len(self))))
        index = range(len(self))[index]
        name = self._text[self._ends[index] : self._ends[index + 1]]
        return StoredImage(self._sources[self._of[index]], os.fsdecode(name))


class FolderSource(ImageSource):
    """A folder and the folders below it. Hidden files and folders are passed over."""

    def __init__(self, root: Path) -> None:
        if not root.is_dir():
            raise UserError(f"{root}: no such folder")
        super().__init__(root)

    def names(self, listed: Sequence[str] | None = None) -> Sequence[str]:
        """Return all names in order, or those listed; see :meth:`ImageSource.names`."""
        if not listed:
            return self._scan()
        missing = [name for name in listed if not (self.root / name).is_file()]
        if missing:
            raise UserError(f"{self.root}: the meta_info_file lists {some(missing)}, not there")
        return listed

    def _scan(self) -> list[str]:
        paths = (path.relative_to(self.root).as_posix() for path in _images_below(self.root, ()))
        names = sorted(paths)
        if not names:
            raise UserError(f"{self.root}: no images in it ({', '.join(sorted(EXTENSIONS))})")
        return names

    def read(self, name: str) -> bytes:
        """Return the file's content; see :meth:`ImageSource.read`."""
        path = self.root / name
        try:
            return path.read_bytes()
        except OSError as error:
            raise UserError(f"{path}: {error.strerror}") from error


class LmdbSource(ImageSource):
    """An LMDB in BasicSR's layout.

    Encoded images lie under their names without extension. ``meta_info.txt`` in the data base's
    folder has a line ``name.png (height,width,channels) compression_level`` for each. A data base
    that ``basicsr prepare`` made must be as it was then, and may hold raw pixels instead.
    """

    def __init__(self, root: Path) -> None:
        if not (root / "data.mdb").is_file():
            raise UserError(f"{root}: no LMDB there (it would be a folder with a file data.mdb)")
        super().__init__(root)
        self._location = root.resolve()

    def names(self, listed: Sequence[str] | None = None) -> Sequence[str]:
        """Return the names in ``meta_info.txt``, or those listed; see :meth:`ImageSource.names`."""
        held = read_meta_info(self.root / "meta_info.txt")
        if not listed:
            return held
        keys = {_stem(name) for name in held}
        missing = [name for name in listed if _stem(name) not in keys]
        if missing:
            raise UserError(f"{self.root}: the meta_info_file lists {some(missing)}, not in it")
        return listed

    def read(self, name: str) -> memoryview:
        """Return the image under the name's key, in place; see :meth:`ImageSource.read`."""
        try:
            with _environment(self._location).begin(buffers=True) as transaction:
                data: memoryview | None = transaction.get(_stem(name).encode())
        except lmdb.Error as error:
            raise UserError(f"{self.root}: cannot be read: {error}") from error
        if data is None:
            raise UserError(f"{self.root}: no key {_stem(name)!r}, which its meta_info.txt lists")
        return data


def open_images(
    key: str, roots: str | list[str], meta_info_files: str | list[str] | None = None
) -> list[list[StoredImage]]:
    """List the images of one root or of several.

    Args:
        key: The option that gave the roots, for messages.
        roots: Folders, or LMDBs, which end in ``.lmdb``. A leading ``~`` is the home folder.
        meta_info_files: As many files as there are roots; each lists which images to take.

    Returns:
        A list for each root, in the order of the names, or of the file that lists them.

    Raises:
        UserError: Something is not there.
    """
    paths = [Path(root).expanduser() for root in as_list(roots)]
    files: Sequence[str | None] = (
        as_list(meta_info_files) if meta_info_files else [None] * len(paths)
    )
    try:
        return [_open_images(path, file) for path, file in zip(paths, files, strict=True)]
    except UserError as error:
        raise UserError(f"{key}: {error}") from error


def read_meta_info(path: Path) -> list[str]:
    """Return the image names of a ``meta_info`` file.

    A line is a name, then, optionally, ``(height,width,channels)`` and more. A name with blanks in
    it needs the size after it.

    Raises:
        UserError: The file is missing or lists nothing.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from error
    names = [_name_in(line) for line in lines if line.strip()]
    if not names:
        raise UserError(f"{path}: lists no images")
    return names


def is_lmdb(root: str | Path) -> bool:
    """Whether a root is an LMDB, by its ending."""
    return Path(root).suffix == LMDB_SUFFIX


def as_list(value: str | list[str]) -> list[str]:
    """Return an option that takes one or several as several."""
    return [value] if isinstance(value, str) else value


def some(names: Sequence[str]) -> str:
    """Name a few of many, for a message."""
    shown = ", ".join(names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"


def _open_images(root: Path, meta_info_file: str | None) -> list[StoredImage]:
    listed = read_meta_info(Path(meta_info_file).expanduser()) if meta_info_file else None
    source = (LmdbSource if is_lmdb(root) else FolderSource)(root)
    return [StoredImage(source, name) for name in source.names(listed)]


def _stem(name: str) -> str:
    return PurePosixPath(name).with_suffix("").as_posix()


def _name_in(line: str) -> str:
    with_size = re.match(r"\s*(.+?)\s+\(\d+,\s*\d+(?:,\s*\d+)?\)", line)
    return with_size[1] if with_size else line.split()[0]


def _images_below(folder: Path, parents: tuple[Path, ...]) -> Iterator[Path]:
    """Walk through folders and links to folders, but never in a circle."""
    resolved = folder.resolve()
    if resolved in parents:
        return
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            path = folder / entry.name
            if entry.is_dir():
                yield from _images_below(path, (*parents, resolved))
            elif path.suffix.lower() in EXTENSIONS:
                yield path


_environments: dict[Path, tuple[int, Any]] = {}
"""Open data bases with the process that opened them: LMDB allows one opening in each process."""


def _environment(path: Path) -> Any:
    """Open a data base on first use in this process; a forked worker opens it anew."""
    opened_by, environment = _environments.get(path, (None, None))
    if opened_by != os.getpid():
        if environment is not None:
            environment.close()
        environment = _open(path)
        _environments[path] = os.getpid(), environment
    return environment


def _open(path: Path) -> Any:
    try:
        environment = lmdb.open(
            str(path), readonly=True, lock=False, readahead=False, meminit=False, max_spare_txns=1
        )
    except lmdb.Error as error:
        raise UserError(f"{path}: no sound LMDB ({error}); copy or make it again") from error
    facts = lmdb_facts(environment)
    if (path / "data.mdb").stat().st_size < facts["bytes"]:
        environment.close()
        # reading behind the end of a mapped file would kill the process
        raise UserError(f"{path}: the LMDB is truncated; copy or make it again")
    made = _manifest_facts(path / MANIFEST)
    changed = [key for key in facts if made and made.get(key) != facts[key]]
    if changed:
        environment.close()
        raise UserError(
            f"{path}: the LMDB was changed after `basicsr prepare` made it ({changed[0]}:"
            f" {facts[changed[0]]}, not {made.get(changed[0])}); copy or make it again"
        )
    return environment


def lmdb_facts(environment: Any) -> dict[str, int]:
    """Return what tells a data base from the one it was: any write changes it."""
    info, stat = environment.info(), environment.stat()
    return {
        "entries": stat["entries"],
        "bytes": (info["last_pgno"] + 1) * stat["psize"],
        "transactions": info["last_txnid"],
    }


def _manifest_facts(path: Path) -> dict[str, int]:
    try:
        facts: dict[str, int] = json.loads(path.read_text(encoding="utf-8"))["lmdb"]
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: cannot be read ({error}); copy or make the LMDB again") from error
    return facts
