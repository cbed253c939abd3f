"""A resumable run that stores images in an LMDB or a folder.

Everything is built in ``OUTPUT.partial`` and renamed at the end, so that ``OUTPUT`` is always
complete. ``OUTPUT.partial`` holds

- ``plan.json``: the images and settings; a later run resumes only if its own are the same,
- ``journal.jsonl``: a line for each image that is stored,
- ``content``: the LMDB or the folder itself.
"""

import hashlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import IO, Any

from cir_data.images import raw_pixels
from cir_data.messages import first_few
from cir_data.prepare.one_image import (
    EncodedImage,
    PreparedImage,
    Settings,
    prepare_image,
    shape_of,
)
from cir_data.prepare.outputs import PreparationReport, check_output, free_bytes
from cir_data.prepare.workers import ordered_map
from cir_data.storage.image_source import StoredImage
from cir_data.storage.lmdb_source import MANIFEST, is_lmdb
from cir_data.storage.meta_info import meta_info_bytes, meta_info_line
from cir_data.storage.writers import FIRST_MAP, FolderWriter, LmdbWriter, Writer
from cir_host.errors import UserError
from cir_host.file_names import printable, short_name
from cir_host.files import PART, write_bytes_whole, write_text_whole

BATCH_BYTES = 1 << 24
"""Bytes that are stored at a time: an interrupted run repeats less work than that."""

_PAGE = 4096

_PLAN, _JOURNAL, _CONTENT, _REPLACED, _LOCK = _OURS = (
    "plan.json",
    "journal.jsonl",
    "content",
    "replaced",
    "lock",
)
"""All files and folders of ``OUTPUT.partial``."""


class Preparation:
    """Stores images at ``output``; resumes an interrupted run.

    Args:
        images: The source images.
        keys: A key for each; see :func:`cir_data.prepare.keys.keys_of`.
        output: The LMDB to make, if the name ends in ``.lmdb``, else a folder of PNGs.
        settings: What becomes of each image.
        overwrite: Replace an existing store at ``output`` once the new one is complete, and discard
            an interrupted run with other settings.
        unusable: One line for each input that cannot be used, to be listed with the skipped files.
        map_size: Initial size of an LMDB's map in bytes.
        batch_bytes: Bytes that are stored at a time.

    Raises:
        UserError: The output exists, is in use, or cannot be written.
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
        replaces = check_output(output, overwrite)
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
        self._report = PreparationReport(unreadable=list(unusable))
        self._lines: list[str] = []
        """Lines of ``meta_info.txt``."""

    def bytes_needed(self, workers: int, progress: Callable[[], object] = lambda: None) -> int:
        """Return the disk space for the store as raw pixels; PNGs take less.

        Sizes are read from the image headers; an image without a readable header counts as 0.
        """
        total = 0
        for shape in ordered_map(shape_of, [image for image, _ in self._jobs], workers):
            progress()
            if not isinstance(shape, str):
                height, width, channels = shape
                for window in self._settings.windows(height, width):
                    entry = raw_pixels.packed_size(window.height, window.width, channels)
                    total += -(-(entry + 16) // _PAGE) * _PAGE  # LMDB adds 16 bytes per entry
        return total

    def run(self, workers: int, progress: Callable[[], object] = lambda: None) -> PreparationReport:
        """Store all images.

        Args:
            workers: Processes that read and encode; with 1, this process does the work.
            progress: Called for each image, including those that an earlier run stored.

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
                f" {free_bytes(self._partial) / 1e6:.1f} MB are free there); fix this, then repeat"
                " the command to resume"
            ) from error

    def _run(self, workers: int, progress: Callable[[], object]) -> PreparationReport:
        lmdb = is_lmdb(self._output)
        writer: Writer = (
            LmdbWriter(self._content, self._map_size) if lmdb else FolderWriter(self._content)
        )
        with (self._partial / _JOURNAL).open("a+b") as journal:
            done = self._replay(journal)
            for _ in range(done):
                progress()
            work = partial(prepare_image, settings=self._settings)
            batch: list[PreparedImage] = []
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
            raise UserError(f"no image could be used: {first_few(left_out)}")
        self._finish(facts)
        return self._report

    def _check_partial(self) -> None:
        """Refuse a folder with foreign files, because it is deleted at the end."""
        for path in self._partial.iterdir():
            if path.name not in _OURS and path.suffix != PART:
                raise UserError(
                    f"{path}: was not made by `basicsr prepare`, which builds {self._output} in"
                    " this folder and then removes it; move its files elsewhere"
                )

    def _check_plan(self) -> None:
        """Resume only a run with the same images and settings; else start again, or refuse."""
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
                    f"{self._partial}: an interrupted run with other {first_few(changed)} left it;"
                    " --overwrite discards it"
                )
            shutil.rmtree(self._content, ignore_errors=True)
            (self._partial / _JOURNAL).unlink(missing_ok=True)
        write_text_whole(file, json.dumps(plan))

    def _replay(self, journal: IO[bytes]) -> int:
        """Count the complete lines of the journal, cut off the rest; return their number."""
        journal.seek(0)
        done = end = 0
        for line in journal.read().split(b"\n")[:-1]:
            try:
                record = json.loads(line)
                entries = tuple(
                    EncodedImage(key, tuple(shape), b"") for key, shape in record["entries"]
                )
                prepared = PreparedImage(entries, record["coarse"], record["unreadable"])
            except (ValueError, KeyError, TypeError):  # a crash of the machine can leave any bytes
                break
            self._count(prepared)
            done += 1
            end += len(line) + 1
        journal.truncate(end)
        journal.seek(0, os.SEEK_END)
        return done

    def _store(self, batch: list[PreparedImage], writer: Writer, journal: IO[bytes]) -> None:
        """Store images, then note them in the journal: every line has its images on disk."""
        writer.write({entry.key: entry.data for image in batch for entry in image.entries})
        for image in batch:
            self._count(image)
            record = {**vars(image), "entries": [(e.key, e.shape) for e in image.entries]}
            journal.write(json.dumps(record).encode() + b"\n")
        journal.flush()
        os.fsync(journal.fileno())

    def _count(self, prepared: PreparedImage) -> None:
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
        """Write the files about the store and move it to its final place."""
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


def _beside(output: Path, name: str) -> Path:
    """Return the path of a file about a store: inside an LMDB's folder, else beside the images."""
    return (
        output / name if is_lmdb(output) else output.with_name(short_name(output.name, f"_{name}"))
    )


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Lock the folder against a second run; the system unlocks it when this process ends."""
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
