"""What the results of a batch are called: no two alike, and none like another input."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import NamedTuple

from cir_data.images.formats import FORMATS, IN_FOLDERS, SUFFIXES
from cir_host.file_names import folded, short_name


class ResultNames(NamedTuple):
    """The names of a result, relative to the folder of the results."""

    format: str
    """Of the restored image, a key of :data:`cir_data.images.formats.SUFFIXES`."""
    restored: PurePosixPath
    copied: PurePosixPath
    """If the file needs no restoration."""
    others: tuple[PurePosixPath, ...]
    """Which a batch of other files would have given it."""


def name_results(names: Sequence[PurePosixPath], wanted: str) -> list[ResultNames]:
    """Name the results of a batch.

    Args:
        names: Of the inputs, all different.
        wanted: A key of :data:`cir_data.images.formats.SUFFIXES`, or ``same``.

    Example:
        >>> from pathlib import PurePosixPath
        >>> from cir_model.restoring.result_names import name_results
        >>> names = [PurePosixPath(name) for name in ("a.jpg", "b.jpg", "b.png")]
        >>> [str(result.restored) for result in name_results(names, "png")]
        ['a.png', 'b.jpg.png', 'b.png.png']
    """
    formats = [format_of(name, wanted) for name in names]
    return [
        ResultNames(
            file_format,
            restored,
            copied,
            tuple(_restored_name(name, file_format, wanted, step) for step in (0, 1)),
        )
        for name, file_format, restored, copied in zip(
            names,
            formats,
            _restored_names(names, formats, wanted),
            _copied_names(names),
            strict=True,
        )
    ]


def format_of(name: PurePosixPath, wanted: str) -> str:
    """Return the format of a restored image: ``wanted``, or for ``same`` that of the input."""
    return FORMATS.get(name.suffix.lower(), "png") if wanted == "same" else wanted


def _key(name: PurePosixPath) -> str:
    return folded(name.as_posix())


def _copied_names(names: Sequence[PurePosixPath]) -> list[PurePosixPath]:
    """Name the copies like the inputs, with a number if names differ only in case."""
    taken = {_key(name) for name in names}
    groups = defaultdict(list)
    for index, name in enumerate(names):
        groups[_key(name)].append(index)
    chosen = list(names)
    for group in groups.values():
        for index in sorted(group, key=lambda i: names[i])[1:]:
            name, number = names[index], 0
            while _key(chosen[index]) in taken:
                number += 1
                ending = f".{number}{name.suffix}"
                chosen[index] = name.with_name(short_name(name.stem, ending))
            taken.add(_key(chosen[index]))
    return chosen


def _restored_name(name: PurePosixPath, file_format: str, wanted: str, step: int) -> PurePosixPath:
    """Return the n-th choice of a name: ``a.png``, ``a.jpg.png``, ``a.jpg.1.png``."""
    suffix = SUFFIXES[file_format]
    known = name.suffix.lower() in IN_FOLDERS | FORMATS.keys()
    if step == 0 and wanted == "same" and name.suffix.lower() in FORMATS:
        return name
    if step == 0 and known:
        return name.with_name(short_name(name.stem, suffix))
    number = f".{step - 1}" if step > 1 else ""
    return name.with_name(short_name(name.name, number + suffix))


def _restored_names(
    names: Sequence[PurePosixPath], formats: Sequence[str], wanted: str
) -> list[PurePosixPath]:
    """Name the restored images, all different from each other and from other inputs and copies.

    The suffix is replaced by that of the format. If two names would be equal, both keep their old
    suffix before it (``a.jpg.png``). If that is taken too, a number is inserted.
    """
    owners = {_key(copy): index for index, copy in enumerate(_copied_names(names))}
    chosen: dict[int, PurePosixPath] = {}
    waiting = sorted(range(len(names)), key=lambda i: names[i])
    for step in (0, 1):
        candidates = {i: _restored_name(names[i], formats[i], wanted, step) for i in waiting}
        counts = Counter(map(_key, candidates.values()))
        fitting = {
            i: name
            for i, name in candidates.items()
            if counts[_key(name)] == 1 and owners.get(_key(name), i) == i
        }
        chosen |= fitting
        owners |= {_key(name): i for i, name in fitting.items()}
        waiting = [i for i in waiting if i not in chosen]
    for index in waiting:
        step = 2
        while _key(name := _restored_name(names[index], formats[index], wanted, step)) in owners:
            step += 1
        chosen[index] = name
        owners[_key(name)] = index
    return [chosen[index] for index in range(len(names))]
