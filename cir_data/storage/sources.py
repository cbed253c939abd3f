"""Where images are stored: folders and LMDB data bases behind one interface."""

import codecs
import json
import logging
import os
import re
from abc import ABC, abstractmethod
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, overload

import lmdb

from cir_data.images.errors import UnreadableImage
from cir_host.errors import UserError
from cir_host.file_names import expanded, printable
from cir_host.files import read_regular

EXTENSIONS = frozenset({".png", ".webp", ".bmp", ".tif", ".tiff", ".jpg", ".jpeg", ".ppm", ".pgm"})

_LIKE_IMAGES = frozenset(
    {
        *(".jfif", ".jpe", ".jif", ".jfi", ".pjpeg", ".pjp", ".jp2", ".j2k"),
        *(".jpf", ".jpx", ".jxl", ".heic", ".heif", ".hif", ".avif", ".gif"),
        *(".apng", ".tga", ".pbm", ".pnm", ".pam", ".pfm", ".psd", ".exr"),
        *(".hdr", ".mpo", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf"),
        *(".orf", ".rw2"),
    }
)
"""Suffixes of images that are not taken."""

LMDB_SUFFIX = ".lmdb"

MANIFEST = "prepare.json"
"""The file by which ``basicsr prepare`` says what it made."""


_logger = logging.getLogger("basicsr")


@dataclass
class PassedOver:
    """What folders hold beside the images that are taken; hidden files are not counted."""

    suffixes: Counter[str] = field(default_factory=Counter)
    """Numbers of files by the suffix, in lower case; "" where there is none."""
    unusable: list[str] = field(default_factory=list)
    """A line for each thing that may be an image, or hold some, and cannot be used."""

    def add(self, other: "PassedOver") -> None:
        """Count what another folder holds too."""
        self.suffixes += other.suffixes
        self.unusable += other.unusable

    def describe(self) -> str:
        """Return the numbers of files by suffix, such as ``3 .heic, 1 without a suffix``."""
        numbers = [
            f"{number:,} {printable(suffix) or 'without a suffix'}"
            for suffix, number in sorted(self.suffixes.items(), key=lambda i: (-i[1], i[0]))
        ]
        return some(numbers, 8)

    def like_images(self) -> "PassedOver":
        """Return those files of which the suffix is that of an image."""
        return PassedOver(Counter({s: n for s, n in self.suffixes.items() if s in _LIKE_IMAGES}))


class ImageSource(ABC):
    """Images under one root, each with its path relative to the root as its name.

    Raises:
        UserError: There is no such root.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.passed_over = PassedOver()
        """Filled by :meth:`names`."""
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
            text += name.encode("utf-8", "surrogatepass")  # in every locale
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
        return StoredImage(self._sources[self._of[index]], name.decode("utf-8", "surrogatepass"))


class FolderSource(ImageSource):
    """A folder and the folders below it. Hidden files and folders are passed over."""

    def __init__(self, root: Path) -> None:
        if not os.path.isdir(root):  # noqa: PTH112 (raises nothing)
            raise UserError(f"{root}: no such folder")
        super().__init__(root)

    def names(self, listed: Sequence[str] | None = None) -> Sequence[str]:
        """Return all names in order, or those listed; see :meth:`ImageSource.names`."""
        if not listed:
            return self._scan()
        found = {name: _first(name, self._holds) for name in listed}
        missing = [name for name, there in found.items() if there is None]
        if missing:
            raise UserError(f"{self.root}: the meta_info_file lists {some(missing)}, not there")
        return [found[name] or name for name in listed]

    def _holds(self, name: str) -> bool:
        return os.path.isfile(self.root / name)  # noqa: PTH113 (raises nothing)

    def _scan(self) -> list[str]:
        self.passed_over = PassedOver()
        names = sorted(_images_below(self.root, self.passed_over))
        self.passed_over.unusable.sort()
        if not names:
            others = [*self.passed_over.unusable[:3], self.passed_over.describe()]
            instead = f"; it holds {', '.join(filter(None, others))}" if any(others) else ""
            taken = ", ".join(sorted(EXTENSIONS))
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
        found = {name: _first(name, lambda n: _stem(n) in keys) for name in listed}
        missing = [name for name, there in found.items() if there is None]
        if missing:
            raise UserError(f"{self.root}: the meta_info_file lists {some(missing)}, not in it")
        return [found[name] or name for name in listed]

    def read(self, name: str) -> memoryview:
        """Return the image under the name's key, in place; see :meth:`ImageSource.read`."""
        try:
            with _environment(self._location).begin(buffers=True) as transaction:
                data: memoryview | None = transaction.get(os.fsencode(_stem(name)))
        except lmdb.Error as error:
            raise UserError(f"{self.root}: cannot be read: {error}") from error
        if data is None:
            raise UserError(f"{self.root}: no key {_stem(name)!r}, which its meta_info.txt lists")
        return data


def open_images(
    key: str, roots: str | list[str], meta_info_files: str | list[str] | None = None
) -> list[list[StoredImage]]:
    """List the images of one root or of several, and log what is passed over.

    Args:
        key: The option that gave the roots, for messages.
        roots: Folders, or LMDBs, which end in ``.lmdb``. A leading ``~`` is the home folder.
        meta_info_files: As many files as there are roots; each lists which images to take.

    Returns:
        A list for each root, in the order of the names, or of the file that lists them.

    Raises:
        UserError: Something is not there, or what may be an image cannot be used.
    """
    opened, passed_over = find_images(key, roots, meta_info_files)
    if passed_over.unusable:
        raise UserError(
            f"{key}: {some(passed_over.unusable)}; mend or remove what cannot be used, or list the"
            " images in a meta_info_file"
        )
    if others := passed_over.like_images().describe():
        _logger.warning(
            "%s: passes over files that may be images: %s. To use them, convert them to PNG, or"
            " rename JPEG files to .jpg.",
            key,
            others,
        )
    return opened


def find_images(
    key: str, roots: str | list[str], meta_info_files: str | list[str] | None = None
) -> tuple[list[list[StoredImage]], PassedOver]:
    """List images as :func:`open_images` does, with what cannot be used.

    Returns:
        A list for each root, and what all of them hold beside.

    Raises:
        UserError: A root or a listed image is not there, or a root holds no images.
    """
    paths = [expanded(root) for root in as_list(roots)]
    files: Sequence[str | None] = (
        as_list(meta_info_files) if meta_info_files else [None] * len(paths)
    )
    opened: list[list[StoredImage]] = []
    passed_over = PassedOver()
    try:
        for root, file in zip(paths, files, strict=True):
            listed = read_meta_info(expanded(file)) if file else None
            source = (LmdbSource if is_lmdb(root) else FolderSource)(root)
            opened.append([StoredImage(source, name) for name in source.names(listed)])
            passed_over.add(source.passed_over)
    except UserError as error:
        raise UserError(f"{key}: {error}") from error
    return opened, passed_over


def read_meta_info(path: Path) -> list[str]:
    """Return the image names of a ``meta_info`` file.

    A line is a name, then, optionally, ``(height,width,channels)`` and more. A name with blanks in
    it needs the size after it, unless it alone makes the line and ends like an image. A name in
    double quotes is one of :func:`meta_info_line`. The text is UTF-8, or UTF-16 with its mark.

    Raises:
        UserError: The file is missing, cannot be read, or lists nothing.
    """
    try:
        data = read_regular(path)
        if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            text = data.decode("utf-16")
        else:
            text = os.fsdecode(data.removeprefix(codecs.BOM_UTF8))  # as file names are
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not {error.encoding.upper()} text ({error.reason})") from error
    except ValueError as error:  # a path with a zero byte
        raise UserError(f"{path}: {error}") from error
    names = [_name_in(line) for line in re.split("\r?\n|\r", text) if line.strip()]
    if not names:
        raise UserError(f"{path}: lists no images")
    return names


def meta_info_line(name: str, *facts: object) -> str:
    """Return the line of an image, with its end, for :func:`meta_info_bytes`.

    A name that would not come back, such as one with a line break, stands in double quotes as JSON.
    """
    plain = _PLAIN.fullmatch(name) and not os.fsencode(name).startswith(_MARKS)
    return " ".join([name if plain else json.dumps(name), *map(str, facts)]) + "\n"


_PLAIN = re.compile(r"\S(?:[^\r\n]*\S)?")
_MARKS = (b'"', codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
"""What in front of a line has a meaning of its own."""


def meta_info_bytes(lines: Iterable[str]) -> bytes:
    """Return what a ``meta_info`` file holds: names by their bytes, whatever the locale."""
    return b"".join(map(os.fsencode, lines))


def is_lmdb(root: str | Path) -> bool:
    """Whether a root is an LMDB, by its ending."""
    return Path(root).suffix == LMDB_SUFFIX


def as_list(value: str | list[str]) -> list[str]:
    """Return an option that takes one or several as several."""
    return [value] if isinstance(value, str) else value


def some(names: Sequence[str], most: int = 3) -> str:
    """Name a few of many, for a message."""
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"


def _stem(name: str) -> str:
    path = PurePosixPath(name)
    return path.with_suffix("").as_posix() if path.name else name


def _first(name: str, there: Callable[[str], bool]) -> str | None:
    """Return a listed name as it is found: as it is, or with forward slashes."""
    return next(filter(there, (name, name.replace("\\", "/"))), None)


def _name_in(line: str) -> str:
    line = line.strip()
    if line.startswith('"'):
        with suppress(ValueError):
            return str(json.JSONDecoder(strict=False).raw_decode(line)[0])
        if quoted := re.match('"([^"]+)"', line):  # with backslashes that are no JSON
            return quoted[1]
    with_size = re.match(r"(.*\S)\s+\(\d+,\s*\d+(?:,\s*\d+)?\)(?:\s|$)", line)
    if with_size:
        return with_size[1]
    first = line.split()[0]
    whole = _is_taken(line) and not _is_taken(first.rstrip(","))
    return line if whole else first


def _is_taken(name: str) -> bool:
    return PurePosixPath(name).suffix.lower() in EXTENSIONS


def _images_below(root: Path, passed_over: PassedOver) -> Iterator[str]:
    """Walk through folders and links to folders, but never in a circle; yield relative names."""
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
            passed_over.unusable.append(f"{root / below}: cannot be listed ({error.strerror})")
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
                passed_over.unusable.append(f"{root / name}: {error.strerror}")
                continue
            if dangling:
                passed_over.unusable.append(f"{root / name}: a link to nothing")
            elif not _is_taken(entry.name):
                passed_over.suffixes[PurePosixPath(entry.name).suffix.lower()] += 1
            elif not regular:
                passed_over.unusable.append(f"{root / name}: a pipe or device, not a file")
            else:
                yield name


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
            os.fsencode(path),
            readonly=True,
            lock=False,
            readahead=False,
            meminit=False,
            max_spare_txns=1,
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
