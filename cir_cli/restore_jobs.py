"""Which files ``basicsr restore`` reads, and the names of what it writes."""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from glob import has_magic
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from cir_data.picture_writing import SUFFIXES
from cir_data.sources import EXTENSIONS
from cir_host.errors import UserError

STANDARD_STREAM = "-"

IN_FOLDERS = EXTENSIONS | {".jpe", ".jfif", ".mpo", ".gif", ".avif", ".jp2", ".ppm", ".pgm", ".tga"}
"""Suffixes of the files that are taken from folders; files that are named may have any."""

_FORMATS = {".jpeg": "jpeg", ".jpe": "jpeg", ".jfif": "jpeg", ".tiff": "tiff"} | {
    suffix: name for name, suffix in SUFFIXES.items()
}


class Job(NamedTuple):
    """One file to restore. Paths are ``-`` for the standard streams."""

    source: Path
    restored: Path
    """Where the restored picture goes."""
    copied: Path
    """Where the file goes if it needs no restoring."""
    format: str
    """Of the restored picture, a key of ``SUFFIXES``."""

    @property
    def streams(self) -> bool:
        """Whether the picture goes to standard output."""
        return str(self.restored) == STANDARD_STREAM


def list_jobs(inputs: Sequence[str], output: str, wanted: str) -> list[Job]:
    """Decide over the whole list what is read and written.

    Args:
        inputs: Files, folders, patterns, or ``-`` alone.
        output: A folder; or a file (by its suffix) or ``-``, for a single file.
        wanted: A key of ``SUFFIXES``, or ``same``.

    Raises:
        UserError: An input is not there, or the output cannot be told.
    """
    if STANDARD_STREAM in inputs and len(inputs) > 1:
        raise UserError("-: standard input must be the only input")
    if STANDARD_STREAM in (*inputs, output) or _names_a_file(inputs, output):
        return [_single(inputs, output, wanted)]
    folder = Path(output)
    if folder.is_file():
        raise UserError(f"-o {output}: is a file; give a folder for several pictures")
    for entry in inputs:
        if Path(entry).is_dir() and folder.resolve() == Path(entry).resolve():
            raise UserError(f"-o {output}: is the input folder; give another one")
    found = _found(inputs, folder.resolve())
    relative = _distinct(found)
    formats = [_format_of(name, wanted) for name in relative]
    jobs = [
        Job(source, folder / restored, folder / name, file_format)
        for (source, _), restored, name, file_format in zip(
            found, _restored_names(relative, formats, wanted), relative, formats, strict=True
        )
    ]
    sources = {job.source.resolve() for job in jobs}
    for job in jobs:
        for path in (job.restored, job.copied):
            if path.resolve() in sources:
                raise UserError(f"{path}: would be overwritten; give another folder by -o")
    return jobs


def list_pictures(inputs: Sequence[str]) -> list[Path]:
    """Return the files that inputs stand for, each once.

    Args:
        inputs: Files, folders, or patterns.

    Raises:
        UserError: An input is not there, or holds no picture.
    """
    return [source for source, _ in _found(inputs, Path())]


def _names_a_file(inputs: Sequence[str], output: str) -> bool:
    path = Path(output)
    only_a_file = len(inputs) == 1 and Path(inputs[0]).is_file()
    return only_a_file and path.suffix.lower() in _FORMATS and not path.is_dir()


def _single(inputs: Sequence[str], output: str, wanted: str) -> Job:
    if len(inputs) != 1 or (inputs[0] != STANDARD_STREAM and not Path(inputs[0]).is_file()):
        raise UserError("-o -: standard output takes a single file as input")
    source, target = Path(inputs[0]), Path(output)
    if output == STANDARD_STREAM:
        file_format = _format_of(PurePosixPath(source.name), wanted)
        return Job(source, target, target, file_format)
    if target.suffix.lower() not in _FORMATS:
        raise UserError(f"-o {output}: give a file with one of {', '.join(sorted(_FORMATS))}")
    if target.exists() and source.exists() and target.samefile(source):
        raise UserError(f"{target}: is the input; give another file by -o")
    return Job(source, target, target, _FORMATS[target.suffix.lower()])


def _format_of(name: PurePosixPath, wanted: str) -> str:
    return _FORMATS.get(name.suffix.lower(), "png") if wanted == "same" else wanted


def _found(inputs: Sequence[str], output: Path) -> list[tuple[Path, PurePosixPath]]:
    """Return each file once, with the name that it has below its input."""
    found: dict[Path, tuple[Path, PurePosixPath]] = {}
    for entry in inputs:
        root, paths = _expanded(entry)
        inside = root.resolve() in output.parents  # then what an earlier run wrote is no input
        for path in paths:
            resolved = path.resolve()
            if not (inside and output in resolved.parents):
                name = PurePosixPath(path.relative_to(root).as_posix())
                found.setdefault(resolved, (path, name))
    if not found:
        raise UserError(f"{', '.join(inputs)}: no pictures ({', '.join(sorted(IN_FOLDERS))})")
    return sorted(found.values(), key=lambda item: (item[1].as_posix(), str(item[0])))


def _expanded(entry: str) -> tuple[Path, list[Path]]:
    """Return what an input stands for, and the folder from which names are counted."""
    path = Path(entry).expanduser()
    if path.is_dir():
        return path, list(_below(path))
    if path.is_file():
        return path.parent, [path]
    if not has_magic(entry):
        raise UserError(f"{entry}: no such file or folder")
    root = path
    while has_magic(str(root)):
        root = root.parent
    matches = [match for match in root.glob(path.relative_to(root).as_posix()) if match.is_file()]
    if not matches:
        raise UserError(f"{entry}: no file matches")
    return root, matches


def _below(folder: Path) -> Iterator[Path]:
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if not name.startswith(".") and Path(name).suffix.lower() in IN_FOLDERS:
                yield Path(parent, name)


def _key(name: PurePosixPath) -> str:
    """Return what is alike for names that some file systems take for one."""
    return name.as_posix().casefold()


def _distinct(found: Sequence[tuple[Path, PurePosixPath]]) -> list[PurePosixPath]:
    """Put folders before names that several inputs share."""
    names = [name for _, name in found]
    for depth in range(1, 1 + max(len(path.resolve().parts) for path, _ in found)):
        counts = Counter(map(_key, names))
        if max(counts.values()) == 1:
            break
        for index, (path, name) in enumerate(found):
            if counts[_key(names[index])] > 1:
                parts = path.resolve().parts[1:]  # without the root
                names[index] = PurePosixPath(*parts[-len(name.parts) - depth :])
    return names


def _restored_names(
    names: Sequence[PurePosixPath], formats: Sequence[str], wanted: str
) -> list[PurePosixPath]:
    """Name the restored pictures, none like another or like another input's copy.

    A name has the format's suffix for its own; where that makes two alike, it follows the whole
    name (``a.jpg.png``); where that is taken too, a number comes between.
    """
    steps = [0] * len(names)

    def candidate(index: int) -> PurePosixPath:
        name, step = names[index], steps[index]
        suffix = SUFFIXES[formats[index]]
        if step == 0:
            keeps = wanted == "same" and name.suffix.lower() in _FORMATS
            return name if keeps else name.with_suffix(suffix)
        return name.with_name(name.name + (f".{step - 1}" if step > 1 else "") + suffix)

    copies = {_key(name): index for index, name in enumerate(names)}
    while True:
        chosen = [candidate(index) for index in range(len(names))]
        counts = Counter(map(_key, chosen))
        clashing = [
            index
            for index, name in enumerate(chosen)
            if counts[_key(name)] > 1 or copies.get(_key(name), index) != index
        ]
        if not clashing:
            return chosen
        for index in clashing:
            steps[index] += 1
