"""The files of one visitor of the page: what was uploaded, and what became of it."""

import csv
import io
import os
import shutil
import time
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from threading import Event
from typing import Literal, TypeAlias

from cir_data.images.reading import FileFacts, examine
from cir_data.images.writing import Encoding, write_file
from cir_host.errors import UserError
from cir_model.restoring.batch_lines import Tally, failure, told
from cir_model.restoring.on_disk import Outcome, quality_note, why_copied
from cir_model.restoring.result_names import ResultNames, name_results
from cir_page.engine import Engine, Settings

State: TypeAlias = Literal[
    "ready", "waiting", "restoring", "restored", "copied", "failed", "cancelled"
]

FORCE = "'Also restore clean files' restores it"
"""How to restore a file that was copied, in the words of the page."""

LARGEST_UPLOAD = 200_000_000
"""Bytes of the largest file that is taken."""

_INTERVAL = 0.3
"""Seconds between two reports of the progress."""

_SURE = 0.05
"""Finished share from which on it tells the time that is left."""


def temporary_folder() -> TemporaryDirectory[str]:
    """Return a folder for the files of all visitors, which is deleted when the program ends."""
    return TemporaryDirectory(prefix="basicsr-page-", ignore_cleanup_errors=True)


class Cancelled(Exception):
    """The visitor stopped the job, or closed the page."""


@dataclass
class Item:
    """A file, and what became of it."""

    name: str
    """Different from that of every other file of the visitor."""
    source: Path
    state: State = "ready"
    found: str = ""
    """The JPEG quality and where the blocks begin, as far as known."""
    facts: FileFacts | None = None
    """None if the file cannot be read."""
    line: str = ""
    """What happened, in the words of ``basicsr restore``."""
    warnings: tuple[str, ...] = ()
    settings: Settings | None = None
    """With which it is restored."""
    names: ResultNames | None = None
    before: Path | None = None
    """The picture as it was, as PNG; None if it was not restored."""
    result: Path | None = None
    share: float = 0.0
    """Finished part of the restoration."""
    started: float = 0.0
    """Clock when the network began."""
    seconds: float = 0.0
    """How long the restoration took."""

    @property
    def pixels(self) -> int:
        """Of the file; 0 if it cannot be read."""
        return self.facts.pixels if self.facts else 0

    def is_done(self, settings: Settings, names: ResultNames) -> bool:
        """Whether restoring it once more would give the same result, or the same error."""
        ended = self.state in ("restored", "copied", "failed")
        return ended and (self.settings, self.names) == (settings, names)

    def forget(self) -> None:
        """Delete the result."""
        for path in (self.before, self.result):
            if path is not None:
                path.unlink(missing_ok=True)
        self.before = self.result = None
        self.line, self.warnings, self.share, self.seconds = "", (), 0.0, 0.0

    def remaining(self) -> float | None:
        """Estimate the seconds that are left; None at the beginning."""
        if self.share < _SURE:
            return None
        return (time.monotonic() - self.started) * (1 - self.share) / self.share


class Session:
    """The files of one visitor.

    Args:
        folder: Is created, and holds all files.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.folder = folder
        self.settings = Settings()
        """Chosen for the next run."""
        self.items: list[Item] = []
        self.shown: Item | None = None
        """The file whose picture is seen before and after."""
        self.summary = ""
        """The counts of the last run, in the words of ``basicsr restore``."""
        self._stop = Event()
        self._running = False
        self._count = 0
        self._uploads: list[Path] = []

    @property
    def busy(self) -> bool:
        """Whether files are being restored or wait for it."""
        return self._running or any(item.state == "waiting" for item in self.items)

    @property
    def stopping(self) -> bool:
        """Whether what is being restored is cancelled, and ends with its tile."""
        return self._running and self._stop.is_set()

    def to_restore(self) -> dict[int, ResultNames]:
        """Return the names of the results that do not exist with these settings, by their index."""
        indices = [index for index, item in enumerate(self.items) if item.facts]
        names = [PurePosixPath(self.items[index].name) for index in indices]
        results = zip(indices, name_results(names, self.settings.format), strict=True)
        return {
            index: own
            for index, own in results
            if not self.items[index].is_done(self.settings, own)
        }

    def seconds(self, item: Item, engine: Engine) -> float | None:
        """Estimate how long a file takes with the settings; None if the speed is not known."""
        begun = item.state in ("waiting", "restoring")
        settings = item.settings if begun and item.settings else self.settings
        if item.facts and why_copied(item.facts, settings.options()):
            return 0.0
        return engine.seconds(item.pixels, settings.best)

    def add(self, path: Path, name: str) -> Item:
        """Take a file, and read its header.

        Args:
            path: Where the upload is. It stays there until :meth:`clear` or :meth:`close`, since
                Gradio gives all uploads of one name and content the same path.
            name: What the visitor calls it.
        """
        self._count += 1
        source = self.folder / f"upload_{self._count}"
        self._uploads.append(path)
        try:
            os.link(path, source)
        except OSError:  # the file system has no links
            shutil.copy(path, source)
        item = Item(self._distinct(name), source)
        self.items.append(item)
        try:
            if source.stat().st_size > LARGEST_UPLOAD:
                raise UserError(
                    f"{item.name}: files of more than {LARGEST_UPLOAD // 10**6} MB are not taken"
                    " here; restore it with the command: basicsr restore"
                )
            facts = examine(source.read_bytes(), item.name)
        except Exception as error:
            item.state, item.line = "failed", failure(item.name, error)
            source.unlink()
            return item
        item.facts = facts
        if facts.format == "JPEG":
            item.found = ", ".join(filter(None, (quality_note(facts), "blocks from the corner")))
        else:
            item.found = f"{'lossless ' if facts.lossless else ''}{facts.format}"
        return item

    def start(self) -> None:
        """Let the files wait that are not yet restored with the settings."""
        if self.busy:
            return
        self._stop = Event()
        for index, names in self.to_restore().items():
            item = self.items[index]
            item.forget()
            item.state, item.settings, item.names = "waiting", self.settings, names
        self._show()

    def run(self, engine: Engine) -> Iterator[None]:
        """Restore the files that wait; yields often, so that the progress can be shown.

        If the iterator is closed, the restoration is cancelled.
        """
        stop, tally, start = self._stop, Tally(), time.monotonic()
        unreadable = sum(item.facts is None for item in self.items)
        tally.counts["failed"] = unreadable
        self._running = True
        worker = ThreadPoolExecutor(1)
        try:
            for item in self.items:
                if item.state != "waiting" or stop.is_set():
                    continue
                future = worker.submit(self._restore, item, engine, tally, stop)
                while wait([future], _INTERVAL).not_done:
                    yield
                self._show()
                yield
        finally:
            self._running = False
            self.stop()
            worker.shutdown(wait=False)
        if tally.counts.total() > unreadable:
            self.summary = tally.line(max(time.monotonic() - start, 0.1))

    def stop(self) -> None:
        """Cancel what is being restored and what waits."""
        self._stop.set()
        for item in self.items:
            if item.state == "waiting":
                item.state = "cancelled"

    def clear(self) -> None:
        """Forget all files, and delete them."""
        self.stop()
        self.items, self.shown, self.summary = [], None, ""
        self._delete_uploads()
        for path in self.folder.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    def close(self) -> None:
        """Cancel everything, and delete the folder."""
        self.stop()
        self._delete_uploads()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _delete_uploads(self) -> None:
        for path in self._uploads:
            path.unlink(missing_ok=True)
        self._uploads = []

    def archive(self) -> Path | None:
        """Write a ZIP with all results and ``summary.csv``; None if there are no results."""
        results = [item for item in self.items if item.result is not None]
        if not results:
            return None
        path = self.folder / "restored.zip"
        with zipfile.ZipFile(path, "w") as file:  # images cannot be compressed further
            for item in results:
                assert item.result is not None
                file.write(item.result, item.result.name)
            file.writestr("summary.csv", self._table())
        return path

    def _show(self) -> None:
        """See that a restored picture is shown, if there is one."""
        if self.shown is None or self.shown.before is None:
            self.shown = next((item for item in self.items if item.before), None)

    def _restore(self, item: Item, engine: Engine, tally: Tally, stop: Event) -> None:
        def watch(share: float) -> None:
            if stop.is_set():
                raise Cancelled
            if item.share == 0:
                item.started = time.monotonic()
            item.share = share

        assert item.settings is not None  # it waits
        item.state = "restoring"
        start = time.monotonic()
        try:
            data = item.source.read_bytes()
            outcome = engine.restore(data, item.name, item.settings, watch)
            watch(1.0)
            self._keep(item, outcome)
        except Cancelled:
            item.state = "cancelled"
        except Exception as error:  # one bad file must not end the batch
            item.state, item.line = "failed", failure(item.name, error)
            tally.counts["failed"] += 1
        else:
            tally.add(outcome)
        item.seconds = time.monotonic() - start

    def _keep(self, item: Item, outcome: Outcome) -> None:
        """Write the result of a file, and the picture as it was."""
        assert item.names is not None  # it waited
        name = item.names.copied if outcome.action == "copied" else item.names.restored
        item.result = self.folder / "results" / name
        write_file(item.result, outcome.data)
        if outcome.before is not None:
            item.before = self.folder / "before" / f"{name}.png"
            write_file(item.before, Encoding("png").encode(outcome.before, item.name))
        if outcome.note and not item.found.startswith("JPEG"):
            item.found = outcome.note
        item.line = told(replace(outcome, output=Path(name)), FORCE)
        item.warnings = outcome.warnings
        item.state = "copied" if outcome.action == "copied" else "restored"

    def _distinct(self, name: str) -> str:
        """Return a name without folders that no other file of the visitor has."""
        path = PurePosixPath(name.replace("\\", "/"))
        if path.name in ("", ".."):
            path = PurePosixPath("file")
        taken = {item.name for item in self.items}
        chosen, number = path.name, 1
        while chosen in taken:
            number += 1
            chosen = f"{path.stem} ({number}){path.suffix}"
        return chosen

    def _table(self) -> str:
        """Return a line of CSV for each file."""
        text = io.StringIO()
        writer = csv.writer(text)
        writer.writerow(("file", "state", "found", "result", "message", "warnings", "seconds"))
        for item in self.items:
            writer.writerow(
                (
                    item.name,
                    item.state,
                    item.found,
                    item.result.name if item.result else "",
                    item.line,
                    "; ".join(item.warnings),
                    f"{item.seconds:.2f}",
                )
            )
        return text.getvalue()
