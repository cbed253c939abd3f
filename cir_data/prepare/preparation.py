"""Making a store of training or test images out of folders, in parallel, to be gone on with.

Everything is built in ``OUTPUT.partial`` and renamed at the end, so that what stands at ``OUTPUT``
is whole. ``OUTPUT.partial`` holds

- ``plan.json``: the images and settings, by which a later run knows that it may go on,
- ``journal.jsonl``: a line for each image that is stored,
- ``content``: the LMDB or the folder itself.
"""

import hashlib
import io
import json
import os
import re
import shutil
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from multiprocessing import parent_process
from pathlib import Path
from signal import SIG_IGN, SIGINT, signal
from threading import Thread
from typing import IO, Any, Literal, NamedTuple, TypeVar
from urllib.parse import quote

import cv2
import numpy as np
from PIL import Image

from cir_data.images.decoding import decode
from cir_data.images.errors import DECODING_ERRORS
from cir_data.images.geometry import Pixels, Window
from cir_data.images.jpeg_facts import equivalent_quality_of_file
from cir_data.prepare.sub_images import sub_windows
from cir_data.storage import raw_pixels
from cir_data.storage.sources import (
    MANIFEST,
    StoredImage,
    is_lmdb,
    meta_info_bytes,
    meta_info_line,
    some,
)
from cir_data.storage.writers import FIRST_MAP, FolderWriter, LmdbWriter, Writer
from cir_host.errors import UserError
from cir_host.file_names import LONGEST_NAME, printable, short_name
from cir_host.files import PART, write_bytes_whole, write_text_whole

Store = Literal["png", "raw"]

BATCH_BYTES = 1 << 24
"""So much is stored at a time; an interrupted run repeats less than that."""

_NUMBER = "_s000000"  # the longest number of a sub-image
_LONGEST_KEY = 511 - len(_NUMBER)  # LMDB's limit
_LONGEST_PART = LONGEST_NAME - len(_NUMBER + ".png")
_SAFE = "/ !#$&'()+,;=@[]{}~^`"
_PAGE = 4096

_PLAN, _JOURNAL, _CONTENT, _REPLACED, _LOCK = _OURS = (
    "plan.json",
    "journal.jsonl",
    "content",
    "replaced",
    "lock",
)
"""What a folder ``OUTPUT.partial`` holds."""

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


@dataclass(frozen=True)
class Settings:
    """What becomes of an image."""

    store: Store = "png"
    size: int | None = None
    """Edge of the sub-images in pixels; None keeps images whole."""
    step: int = 0
    threshold: int = 0
    min_jpeg_quality: int | None = None
    """JPEG files that are coarser than this standard quality are left out."""

    def windows(self, height: int, width: int) -> list[Window]:
        """Return the sub-images of an image, or the whole of it as one."""
        if self.size is None:
            return [Window(0, 0, height, width)]
        return sub_windows(height, width, self.size, self.step, self.threshold)

    def key(self, key: str, number: int) -> str:
        """Return the key of an image's sub-image, counted from 0."""
        return key if self.size is None else f"{key}_s{number + 1:03d}"

    def encode(self, image: Pixels) -> bytes:
        """Return what is stored of an image."""
        return raw_pixels.pack(image) if self.store == "raw" else _png(image)


class Entry(NamedTuple):
    """One stored image."""

    key: str
    shape: tuple[int, int, int]
    """Height, width, channels."""
    data: bytes


@dataclass(frozen=True)
class Prepared:
    """What became of one source image."""

    entries: tuple[Entry, ...] = ()
    coarse: str = ""
    """Why it was left out as a coarse JPEG."""
    unreadable: str = ""


@dataclass
class Report:
    """What a preparation did."""

    images: int = 0
    """Source images that were stored."""
    entries: int = 0
    coarse: list[str] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)


# Keys


def keys_of(images: Sequence[StoredImage], remove_suffix: str = "") -> list[str]:
    """Return a key for each image as BasicSR's LMDBs take them, no two alike.

    A key is the path below the root, without extension; in front of it stands the root's name if
    there are several roots. What BasicSR cannot have in a key, dots and all that is not ASCII, is
    written as in web addresses (``%2E`` for a dot), and so are capitals where two keys differ in
    them only, as some file systems do not tell those apart. Images whose keys would still be alike
    keep their extension. A part of the path that is too long for the name of a file is cut, and
    ends in a digest of the whole.

    Args:
        images: Images of one root or of several.
        remove_suffix: An ending that is removed from the names, such as ``x4``.

    Raises:
        UserError: Several roots have one name, or one is given twice.
    """
    roots = {image.source.root: image.source.root.resolve().stem for image in images}
    names = list(roots.values())
    if len(set(names)) < len(names):
        raise UserError(f"input folders of one name ({names[0]}); give the folder above them")
    if len({(image.source.root, image.name) for image in images}) < len(images):
        raise UserError("the inputs name a folder twice; give each once")
    forms = [0] * len(images)

    def key_of(index: int) -> str:
        image, form = images[index], forms[index]
        name = _without(image.stem, remove_suffix) if form < 2 else image.name
        if form > 3:  # only where a name was made to be like a shortened one
            folder, slash, _ = name.rpartition("/")
            name = folder + slash + short_name(f"{name}~{form}", longest=0)
        if len(roots) > 1:
            name = f"{roots[image.source.root]}/{name}"
        return _short(_quoted(name, capitals=form % 2 == 1))

    keys = [key_of(index) for index in range(len(images))]
    while True:
        alike: dict[str, list[int]] = {}
        for index, key in enumerate(keys):
            alike.setdefault(key.lower(), []).append(index)
        if len(alike) == len(keys):
            return keys
        for group in (group for group in alike.values() if len(group) > 1):
            plainest = min(forms[index] for index in group)
            for index in (index for index in group if forms[index] == plainest):
                forms[index] += 1
                keys[index] = key_of(index)


def _without(stem: str, suffix: str) -> str:
    shorter = stem.removesuffix(suffix)
    return stem if shorter.endswith("/") or not shorter else shorter


def _quoted(name: str, capitals: bool) -> str:
    key = quote(name, safe=_SAFE, errors="surrogateescape").replace(".", "%2E")
    # neither a meta_info file nor a folder holds these in front of a name
    key = re.sub("(?<![^/])[ /]", lambda match: f"%{ord(match[0]):X}", key)
    if capitals:
        key = re.sub(
            "(%..)|[A-Z]", lambda match: match[1] or f"%{ord(match[0]):X}", key, flags=re.DOTALL
        )
    return key


def _short(key: str) -> str:
    """Return a key of which each part fits a file's name, and the whole an LMDB."""
    parts = [_cut(part, _LONGEST_PART) for part in key.split("/")]
    whole = "/".join(parts)
    if len(whole) > _LONGEST_KEY:
        whole = f"{_cut('/'.join(parts[:-1]), _LONGEST_PART)}/{parts[-1]}"
    return whole


def _cut(text: str, longest: int) -> str:
    short = short_name(text, longest=longest)
    return short if short == text else re.sub("%.?(?=~[0-9a-f]{16}$)", "", short)


# One image, in a worker


def prepare_image(job: tuple[StoredImage, str], settings: Settings) -> Prepared:
    """Read an image, leave it out or cut it up, and encode the parts."""
    image, key = job
    try:
        data = image.read()
        if settings.min_jpeg_quality is not None:
            quality = equivalent_quality_of_file(data)
            if quality is not None and quality < settings.min_jpeg_quality:
                return Prepared(coarse=f"{image.path}: JPEG of quality {quality}")
        pixels = decode(data, image.path)
    except UserError as error:
        return Prepared(unreadable=str(error))
    entries = []
    for number, window in enumerate(settings.windows(*pixels.shape[:2])):
        part = np.ascontiguousarray(window.cut(pixels))
        shape = (*part.shape, 1)[:3]
        entries.append(Entry(settings.key(key, number), shape, settings.encode(part)))
    return Prepared(tuple(entries))


def measure(image: StoredImage) -> tuple[int, int, int] | str:
    """Return height, width and channels from an image's header, or why they cannot be read."""
    try:
        data = image.read()
        if raw_pixels.is_raw(data):
            return (*decode(data, image.path).shape, 1)[:3]
        with Image.open(io.BytesIO(data)) as opened:
            grey = opened.mode in ("1", "L", "LA") or opened.mode.startswith("I")
            return opened.height, opened.width, 1 if grey else 3
    except UserError as error:
        return str(error)
    except DECODING_ERRORS as error:
        return f"{image.path}: cannot be read as an image: {error or type(error).__name__}"


def _png(image: Pixels) -> bytes:
    # OpenCV's choice of filter and level takes 8 % more room than Pillow's level 1, half the time
    # to make, and 0.7 of the time to decode
    done, data = cv2.imencode(".png", image if image.ndim == 2 else image[..., ::-1])
    assert done
    return bytes(data)


# The whole


class Preparation:
    """Stores images at ``output``, going on where an interrupted run stopped.

    Args:
        images: The source images.
        keys: As many keys; see :func:`keys_of`.
        output: The store to make: an LMDB if its name ends in ``.lmdb``, else a folder of PNGs.
        settings: What becomes of each image.
        overwrite: Replace an earlier store at ``output`` once the new one is whole, and discard
            what an interrupted run with other settings left.
        unusable: A line for each thing that was found and cannot be used, to be listed with the
            files that are left out.
        map_size: First size of an LMDB's map in bytes.
        batch_bytes: So much is stored at a time.

    Raises:
        UserError: The output exists, is in use, or is no place to write to.
    """

    def __init__(
        self,
        images: Sequence[StoredImage],
        keys: Sequence[str],
        output: Path,
        settings: Settings,
        *,
        overwrite: bool = False,
        unusable: Sequence[str] = (),
        map_size: int = FIRST_MAP,
        batch_bytes: int = BATCH_BYTES,
    ) -> None:
        if settings.store == "raw" and not is_lmdb(output):
            raise UserError(f"{output}: raw pixels are stored in an LMDB; end its name in .lmdb")
        replaces = _is_there(output, overwrite)
        for root in {image.source.root for image in images}:
            if root.resolve() in (output.resolve(), *output.resolve().parents):
                raise UserError(f"{output}: lies in the input {root}; choose a place outside it")
        if replaces and not _beside(output, MANIFEST).is_file():
            raise UserError(f"{output}: was not made by `basicsr prepare`; remove it yourself")
        self._jobs = list(zip(images, keys, strict=True))
        self._output = output
        self._settings = settings
        self._overwrite = overwrite
        self._map_size = map_size
        self._batch_bytes = batch_bytes
        self._partial = output.with_name(short_name(output.name, ".partial"))
        self._content = self._partial / _CONTENT
        self._report = Report(unreadable=list(unusable))
        self._lines: list[str] = []
        """Of ``meta_info.txt``."""

    def bytes_needed(self, workers: int, progress: Callable[[], object] = lambda: None) -> int:
        """Return the room that the store takes as raw pixels; as PNG it takes less.

        Image headers tell; an image without a sound one counts nothing.
        """
        total = 0
        for size in ordered_map(measure, [image for image, _ in self._jobs], workers):
            progress()
            if not isinstance(size, str):
                height, width, channels = size
                for window in self._settings.windows(height, width):
                    entry = raw_pixels.packed_size(window.height, window.width, channels)
                    total += -(-(entry + 16) // _PAGE) * _PAGE  # 16 bytes stand before an entry
        return total

    def run(self, workers: int, progress: Callable[[], object] = lambda: None) -> Report:
        """Store all images.

        Args:
            workers: Processes that read and encode; with 1, this process does it.
            progress: Called for each image, those of an earlier run included.

        Raises:
            UserError: No image can be used, or the store cannot be written.
        """
        try:
            self._partial.parent.mkdir(parents=True, exist_ok=True)
            self._partial.mkdir(exist_ok=True)
            self._check_partial()
            with _locked(self._partial):
                self._check_plan()
                self._content.mkdir(exist_ok=True)
                return self._run(workers, progress)
        except OSError as error:
            raise UserError(
                f"{self._partial}: cannot be written ({error.strerror or error};"
                f" {free_bytes(self._partial) / 1e6:.1f} MB are free there); mend that and give the"
                " same command again: it goes on where it stopped"
            ) from error

    def _run(self, workers: int, progress: Callable[[], object]) -> Report:
        lmdb = is_lmdb(self._output)
        writer: Writer = (
            LmdbWriter(self._content, self._map_size) if lmdb else FolderWriter(self._content)
        )
        with (self._partial / _JOURNAL).open("a+b") as journal:
            done = self._replay(journal)
            for _ in range(done):
                progress()
            work = partial(prepare_image, settings=self._settings)
            batch: list[Prepared] = []
            held = 0
            for prepared in ordered_map(work, self._jobs[done:], workers):
                batch.append(prepared)
                held += sum(len(entry.data) for entry in prepared.entries)
                progress()
                if held >= self._batch_bytes:
                    self._store(batch, writer, journal)
                    batch, held = [], 0
            self._store(batch, writer, journal)
        facts = writer.close()
        if not self._report.entries:
            shutil.rmtree(self._partial)
            left_out = [*self._report.unreadable, *self._report.coarse]
            raise UserError(f"no image could be used: {some(left_out)}")
        self._finish(facts)
        return self._report

    def _check_partial(self) -> None:
        """Make sure that the folder that is removed at the end is ours."""
        for path in self._partial.iterdir():
            if path.name not in _OURS and path.suffix != PART:
                raise UserError(
                    f"{path}: was not made by `basicsr prepare`, which builds {self._output} in"
                    " this folder and then removes it; move what it holds elsewhere"
                )

    def _check_plan(self) -> None:
        """Make sure that what an earlier run left belongs to this one, or begin anew."""
        names = "\n".join(f"{key}\t{image.path}" for image, key in self._jobs)
        plan = {
            "images": len(self._jobs),
            "names": hashlib.sha256(names.encode(errors="surrogateescape")).hexdigest(),
            **asdict(self._settings),
        }
        file = self._partial / _PLAN
        try:
            earlier = json.loads(file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            earlier = None
        except ValueError:
            earlier = {}
        if not isinstance(earlier, dict | None):
            earlier = {}
        if earlier is not None and earlier != plan:
            if not self._overwrite:
                changed = [key for key in plan if earlier.get(key) != plan[key]]
                raise UserError(
                    f"{self._partial}: an interrupted run with other {some(changed)} left it;"
                    " --overwrite discards it"
                )
            shutil.rmtree(self._content, ignore_errors=True)
            (self._partial / _JOURNAL).unlink(missing_ok=True)
        write_text_whole(file, json.dumps(plan))

    def _replay(self, journal: IO[bytes]) -> int:
        """Take over the whole lines of the journal, cut off what is torn, return their number."""
        journal.seek(0)
        done = end = 0
        for line in journal.read().split(b"\n")[:-1]:
            try:
                record = json.loads(line)
                entries = tuple(Entry(key, tuple(shape), b"") for key, shape in record["entries"])
                prepared = Prepared(entries, record["coarse"], record["unreadable"])
            except (ValueError, KeyError, TypeError):  # a crash of the machine leaves anything
                break
            self._count(prepared)
            done += 1
            end += len(line) + 1
        journal.truncate(end)
        journal.seek(0, os.SEEK_END)
        return done

    def _store(self, batch: list[Prepared], writer: Writer, journal: IO[bytes]) -> None:
        """Store images, then say so in the journal: a line there has its images on disk."""
        writer.write({entry.key: entry.data for image in batch for entry in image.entries})
        for image in batch:
            self._count(image)
            record = {**vars(image), "entries": [(e.key, e.shape) for e in image.entries]}
            journal.write(json.dumps(record).encode() + b"\n")
        journal.flush()
        os.fsync(journal.fileno())

    def _count(self, prepared: Prepared) -> None:
        suffix, level = ("raw", 0) if self._settings.store == "raw" else ("png", 1)
        for entry in prepared.entries:
            height, width, channels = entry.shape
            size = f"({height},{width},{channels})"
            self._lines.append(meta_info_line(f"{entry.key}.{suffix}", size, level))
        self._report.images += bool(prepared.entries)
        self._report.entries += len(prepared.entries)
        self._report.coarse += [prepared.coarse] if prepared.coarse else []
        self._report.unreadable += [prepared.unreadable] if prepared.unreadable else []

    def _finish(self, facts: dict[str, Any]) -> None:
        """Write the files that go with the store and put it in its place."""
        left_out = [*self._report.unreadable, *self._report.coarse]
        texts = {
            "meta_info.txt": meta_info_bytes(self._lines),
            MANIFEST: json.dumps({**asdict(self._settings), **facts}, indent=1).encode() + b"\n",
            "left_out.txt": "".join(f"{printable(line)}\n" for line in left_out).encode(),
        }
        within = is_lmdb(self._output)
        for name, text in texts.items():
            if text:
                path = self._content / name if within else _beside(self._output, name)
                write_bytes_whole(path, text)
        if self._output.exists():
            self._output.rename(self._partial / _REPLACED)
        self._content.rename(self._output)
        shutil.rmtree(self._partial)


def write_meta_info(
    images: Sequence[StoredImage],
    output: Path,
    workers: int,
    *,
    overwrite: bool = False,
    unusable: Sequence[str] = (),
    progress: Callable[[], object] = lambda: None,
) -> Report:
    """Write the ``meta_info`` file of a folder: a line ``name (height,width,channels)`` each.

    Raises:
        UserError: The file exists or cannot be written, or no image has a sound header.
    """
    _is_there(output, overwrite)
    report = Report(unreadable=list(unusable))
    lines = []
    for image, size in zip(images, ordered_map(measure, images, workers), strict=True):
        progress()
        if isinstance(size, str):
            report.unreadable.append(size)
        else:
            lines.append(meta_info_line(image.name, "({},{},{})".format(*size)))
    report.images = report.entries = len(lines)
    if not lines:
        raise UserError(f"no image could be used: {some(report.unreadable)}")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        write_bytes_whole(output, meta_info_bytes(lines))
    except OSError as error:
        raise UserError(f"{output}: {error.strerror}") from error
    return report


def _is_there(output: Path, overwrite: bool) -> bool:
    """Tell whether there is an output that may be replaced.

    Raises:
        UserError: It may not be replaced, or no file can have the path.
    """
    try:
        output.lstat()
    except FileNotFoundError:
        return False
    except (OSError, ValueError) as error:
        raise UserError(f"{output}: {getattr(error, 'strerror', None) or error}") from error
    if not overwrite:
        raise UserError(f"{output}: exists already; --overwrite replaces it")
    return True


def free_bytes(path: Path) -> int:
    """Return the room on the disk where a path is or will be."""
    folder = path.absolute()
    while not os.path.isdir(folder):  # noqa: PTH112 (raises nothing)
        folder = folder.parent
    return shutil.disk_usage(folder).free


def _beside(output: Path, name: str) -> Path:
    """Return where a file about a store lies: in an LMDB's folder, but not among images."""
    return (
        output / name if is_lmdb(output) else output.with_name(short_name(output.name, f"_{name}"))
    )


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keep a second run out of the folder; the system frees it when this process ends."""
    if sys.platform == "win32":
        yield
        return
    import fcntl

    with (folder / _LOCK).open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(f"{folder}: another `basicsr prepare` is at work in it") from error
        yield


# Processes


def ordered_map(
    function: Callable[[_Item], _Result], items: Iterable[_Item], workers: int
) -> Iterator[_Result]:
    """Yield the results of a function in the order of the items, few of them waiting at a time.

    Args:
        function: Can be pickled, as its arguments and results can.
        items: What it is called with.
        workers: Processes; with 1, this process does it.

    Raises:
        UserError: A process was killed.
    """
    if workers <= 1:
        yield from map(function, items)
        return
    with ProcessPoolExecutor(workers, initializer=_begin_worker) as pool:
        try:
            yield from _in_order(pool, function, items, 2 * workers)
        except BrokenProcessPool as error:
            raise UserError(
                "a worker process was killed, perhaps for want of memory; give the same command"
                " again with fewer --workers: it goes on where it stopped"
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


def _in_order(
    pool: Executor, function: Callable[[_Item], _Result], items: Iterable[_Item], waiting: int
) -> Iterator[_Result]:
    futures: deque[Future[_Result]] = deque()
    for item in items:
        futures.append(pool.submit(function, item))
        if len(futures) > waiting:
            yield futures.popleft().result()
    while futures:
        yield futures.popleft().result()


def _begin_worker() -> None:
    """Leave Ctrl-C to the main process, and end with it even where it is killed."""
    signal(SIGINT, SIG_IGN)
    Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
