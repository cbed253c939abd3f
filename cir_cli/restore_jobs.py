"""Which files ``basicsr restore`` reads, and how it names the results."""

import glob
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TypeAlias

from cir_data.images.formats import FORMATS, IN_DATA_SETS, IN_FOLDERS, OTHER_IMAGES
from cir_data.messages import first_few
from cir_host.errors import UserError
from cir_host.file_names import expanded
from cir_model.restoring.on_disk import Job
from cir_model.restoring.result_names import format_of, name_results

STANDARD_STREAM = "-"

_OF_FILES = IN_FOLDERS | FORMATS.keys() | IN_DATA_SETS | OTHER_IMAGES
"""Suffixes after which ``-o`` is meant as a file, also of formats that are not written."""

_JPEG_START = b"\xff\xd8\xff"

_Found: TypeAlias = tuple[Path, PurePosixPath]
"""A file, and its name relative to the input."""


@dataclass
class LeftOut:
    """Entries of the input folders that are not restored."""

    other_files: Counter[str] = field(default_factory=Counter)
    """Counts of other files, by suffix."""
    hidden: int = 0
    links: list[Path] = field(default_factory=list)
    """Links to folders, which are not followed."""
    irregular: list[Path] = field(default_factory=list)
    """Pipes and devices."""
    unreadable: list[str] = field(default_factory=list)
    """Folders and links that cannot be read, with the reason; these count as failures."""

    def lines(self) -> list[str]:
        """Return one line for each kind of entry that is left out."""
        lines = []
        if self.other_files:
            kinds = [f"{n} {suffix or 'without'}" for suffix, n in self.other_files.most_common()]
            total = self.other_files.total()
            lines.append(f"files of other kinds: {total} (by suffix: {first_few(kinds, 8)})")
        if self.hidden:
            lines.append(f"hidden files and folders: {self.hidden}")
        for paths, kind in (
            (self.links, "linked folders (name them as inputs to restore them)"),
            (self.irregular, "pipes and devices"),
        ):
            if paths:
                lines.append(f"{kind}: {len(paths)} ({first_few([str(path) for path in paths])})")
        return lines


def list_jobs(
    inputs: Sequence[str], output: str, wanted: str, left_out: LeftOut | None = None
) -> list[Job]:
    """Decide for all inputs at once which files are read and written.

    Args:
        inputs: Files, folders, patterns, or ``-`` alone.
        output: A folder; or a file (by its suffix) or ``-``, for a single file.
        wanted: A key of ``SUFFIXES``, or ``same``.
        left_out: Gets what the folders hold besides images.

    Raises:
        UserError: An input does not exist, or the output does not suit the inputs.
    """
    if not output:
        raise UserError("-o: the name is empty; give a folder, a file or -")
    if STANDARD_STREAM in inputs and len(inputs) > 1:
        raise UserError("-: standard input cannot be combined with other inputs")
    if STANDARD_STREAM in (*inputs, output) or _names_a_file(inputs, output):
        return [_single(inputs, output, wanted)]
    folder = Path(output)
    if folder.is_file():
        raise UserError(f"-o {output}: is a file; give a folder for several images")
    if folder.suffix.lower() in _OF_FILES and not (folder.is_dir() or output.endswith(os.sep)):
        raise UserError(
            f"-o {output}: names a file, but the input is not a single file; give a folder"
        )
    for entry in inputs:
        if Path(entry).is_dir() and _real(folder) == _real(Path(entry)):
            raise UserError(f"-o {output}: is also the input folder; give another folder")
    found = _found(inputs, _real(folder), LeftOut() if left_out is None else left_out)
    relative = _distinct(found)
    jobs = []
    for (source, _), name, result in zip(
        found, relative, name_results(relative, wanted), strict=True
    ):
        earlier = tuple(folder / other for other in dict.fromkeys((name, *result.others)))
        jobs.append(
            Job(source, folder / result.restored, folder / result.copied, result.format, earlier)
        )
    sources = {_real(job.source) for job in jobs}
    for job in jobs:
        for path in (job.restored, job.copied):
            if _real(path) in sources:
                raise UserError(
                    f"{path}: this input would be overwritten; give another folder with -o"
                )
    return jobs


def list_pictures(inputs: Sequence[str], left_out: LeftOut | None = None) -> list[Path]:
    """Return the image files that the inputs name, each once.

    Args:
        inputs: Files, folders, or patterns.
        left_out: Gets what the folders hold besides images.

    Raises:
        UserError: An input does not exist, or there are no images.
    """
    found = _found(inputs, Path(), LeftOut() if left_out is None else left_out)
    return [source for source, _ in found]


def streams(job: Job) -> bool:
    """Whether the result goes to standard output."""
    return str(job.restored) == STANDARD_STREAM


def _real(path: Path) -> Path:
    """Resolve links; leave a loop of links as it is."""
    return Path(os.path.realpath(path))


def _names_a_file(inputs: Sequence[str], output: str) -> bool:
    path = Path(output)
    only_a_file = len(inputs) == 1 and expanded(inputs[0]).is_file()
    looks_like_a_file = path.suffix.lower() in _OF_FILES
    return only_a_file and looks_like_a_file and not (path.is_dir() or output.endswith(os.sep))


def _single(inputs: Sequence[str], output: str, wanted: str) -> Job:
    source = expanded(inputs[0])
    if len(inputs) != 1 or (inputs[0] != STANDARD_STREAM and not source.is_file()):
        raise UserError("-o -: standard output needs a single file as input")
    target = Path(output)
    if output == STANDARD_STREAM:
        file_format = format_of(PurePosixPath(source.name), wanted)
        return Job(source, target, target, file_format)
    if target.suffix.lower() not in FORMATS:
        raise UserError(
            f"-o {output}: the suffix names no format; use one of {', '.join(sorted(FORMATS))}"
        )
    if target.exists() and source.exists() and target.samefile(source):
        raise UserError(f"-o {target}: is also the input; give another file")
    return Job(source, target, target, FORMATS[target.suffix.lower()], exact=True)


def _found(inputs: Sequence[str], output: Path, left_out: LeftOut) -> list[_Found]:
    """Return each file once, with its name relative to its input."""
    found: dict[Path, _Found] = {}
    for entry in inputs:
        root, paths = _matches(entry, left_out)
        inside = _real(root) in output.parents  # then earlier results are not inputs
        for path in paths:
            resolved = _real(path)
            if not (inside and output in resolved.parents):
                name = PurePosixPath(path.relative_to(root).as_posix())
                known = found.setdefault(resolved, (path, name))
                if known[0].is_symlink() and not path.is_symlink():
                    found[resolved] = (path, name)  # the file's own name
    if not found:
        reasons = "; ".join((*left_out.unreadable, *left_out.lines()))
        raise UserError(
            f"{', '.join(inputs)}: no images in it ({', '.join(sorted(IN_FOLDERS))})"
            + (f"; left out: {reasons}" if reasons else "")
        )
    return sorted(found.values(), key=lambda item: (item[1].as_posix(), str(item[0])))


def _matches(entry: str, left_out: LeftOut) -> tuple[Path, list[Path]]:
    """Return the files that an input names, and the folder to which names are relative."""
    path = expanded(entry)
    if path.is_dir():
        return path, list(_below(path, left_out))
    if path.exists():  # a pipe or device is refused when it is read
        return path.parent, [path]
    if not glob.has_magic(entry):
        raise UserError(f"{entry}: no such file or folder")
    root = path
    while glob.has_magic(str(root)):
        root = root.parent
    # Path.glob refuses patterns such as **.jpg
    found = sorted(glob.glob(str(path), recursive=True))  # noqa: PTH207
    matches = [Path(match) for match in found if Path(match).is_file()]
    if not matches:
        raise UserError(f"{entry}: no file matches")
    return root, matches


def _below(folder: Path, left_out: LeftOut) -> Iterator[Path]:
    def unreadable(error: OSError) -> None:
        left_out.unreadable.append(f"{error.filename}: {error.strerror}")

    for parent, folders, files in os.walk(folder, onerror=unreadable):
        visible = sorted(name for name in folders if not name.startswith("."))
        left_out.hidden += len(folders) - len(visible)
        left_out.links += [
            Path(parent, name) for name in visible if Path(parent, name).is_symlink()
        ]
        folders[:] = visible
        for name in sorted(files):
            if name.startswith("."):
                left_out.hidden += 1
            elif _is_picture(path := Path(parent, name), left_out):
                yield path


def _is_picture(path: Path, left_out: LeftOut) -> bool:
    suffix = path.suffix.lower()
    if not path.is_file():
        if not path.exists():
            left_out.unreadable.append(f"{path}: a link to a missing file")
        else:
            left_out.irregular.append(path)
        return False
    if suffix in IN_FOLDERS or _begins_as_jpeg(path):
        return True
    left_out.other_files[suffix] += 1
    return False


def _begins_as_jpeg(path: Path) -> bool:
    """Whether a file with another suffix, or without one, is a JPEG."""
    try:
        with path.open("rb") as file:
            return file.read(len(_JPEG_START)) == _JPEG_START
    except OSError:
        return False


def _distinct(found: Sequence[_Found]) -> list[PurePosixPath]:
    """Prepend folders to names that several inputs share."""
    names = [name for _, name in found]
    for depth in range(1, 1 + max(len(_real(path).parts) for path, _ in found)):
        counts = Counter(names)
        if max(counts.values()) == 1:
            break
        for index, (path, name) in enumerate(found):
            if counts[names[index]] > 1:
                parts = _real(path).parts[1:]  # without the root
                names[index] = PurePosixPath(*parts[-len(name.parts) - depth :])
    return names
