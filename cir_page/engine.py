"""One network in memory, which restores one file at a time."""

import time
from dataclasses import dataclass
from threading import Lock

import torch
from msgspec.structs import replace

from cir_data.images.photographs import SHOWPIECES
from cir_model.restoring.consistency import can_hold
from cir_model.restoring.in_memory import USUAL, load_restorer
from cir_model.restoring.inference import Restorer, Watch
from cir_model.restoring.on_disk import Outcome, restore_bytes
from cir_model.restoring.settings import RestoreOptions
from cir_weights import best_weights, default_weights

_TELLING = 100_000
"""Pixels of the smallest file whose time tells the speed."""


@dataclass(frozen=True)
class Settings:
    """What the user chose; the defaults are those of ``basicsr restore``."""

    best: bool = False
    """Restore with the larger bundled weights."""
    format: str = "png"
    """Of the result, a key of :data:`cir_data.images.formats.SUFFIXES`."""
    strength: float | None = None
    """0 to 1; None: by the quality of the file or of its pixels."""
    consistency: bool = True
    """Hold the result of a JPEG to its file."""
    force: bool = False
    """Also restore files that look clean."""

    def options(self) -> RestoreOptions:
        """Return those of the library."""
        return RestoreOptions(strength=self.strength, force=self.force)


class Engine:
    """Restores files one at a time, with one network in memory.

    It may be called from several threads; they wait for each other.
    """

    def __init__(self) -> None:
        self._free = Lock()
        self._best = False
        self._restorer: Restorer | None = None
        self._seconds: dict[bool, float] = {}
        """Per pixel, without and with ``best``, by the last file."""

    def restore(self, data: bytes, where: str, settings: Settings, watch: Watch) -> Outcome:
        """Restore the content of a file, as ``basicsr restore`` does.

        Args:
            data: The content.
            where: Its name, for messages.
            settings: What the user chose.
            watch: Gets the finished share; an exception that it raises ends the restoration.

        Raises:
            UserError: See :func:`cir_model.restoring.on_disk.restore_bytes`.
        """
        with self._free:
            return self._restore(data, where, settings, watch)

    def measure(self, best: bool) -> None:
        """Measure the speed on photographs, unless it is known or a file is being restored."""
        if best in self._seconds or not self._free.acquire(blocking=False):
            return
        try:
            first, _, larger, _ = SHOWPIECES
            for piece in (first, larger):  # the first time is slower
                self._restore(piece.jpeg(), piece.name, Settings(best), None)
        finally:
            self._free.release()

    def seconds(self, pixels: int, best: bool) -> float | None:
        """Estimate how long pictures of so many pixels take; None if the speed is not known."""
        per_pixel = self._seconds.get(best)
        return None if per_pixel is None else per_pixel * pixels

    def _restore(self, data: bytes, where: str, settings: Settings, watch: Watch | None) -> Outcome:
        restorer = self._loaded(settings.best, settings.consistency)
        restorer.watch = watch
        start = time.perf_counter()
        try:
            outcome = restore_bytes(data, where, settings.format, restorer, settings.options())
        finally:
            restorer.watch = None
        if outcome.pixels >= _TELLING:
            self._seconds[settings.best] = (time.perf_counter() - start) / outcome.pixels
        return outcome

    def _loaded(self, best: bool, consistency: bool) -> Restorer:
        options = replace(USUAL, consistency=consistency and can_hold())
        restorer = self._restorer
        if restorer is None or best != self._best:
            self._restorer = restorer = None  # the old network leaves before the new one comes
            device = "cuda" if torch.cuda.is_available() else "cpu"
            weights = best_weights() if best else default_weights()
            restorer = load_restorer(weights, device, options)
        elif restorer.options != options:
            restorer = Restorer(restorer.networks, options, restorer.names)
        self._best, self._restorer = best, restorer
        return restorer
