"""The degradations of ``JPEGRestorationDataset``: one JPEG compression, or two."""

import io
import re
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError
from PIL.JpegImagePlugin import JpegImageFile

from cir_data.codecs.ijg_jpeg import IJGJpeg
from cir_data.codecs.jpeg import JPEG
from cir_data.codecs.uncompressed import Uncompressed
from cir_data.degradations.degradation import Compress, CutOff, Degradation, Resize, Step
from cir_data.degradations.other_codecs import OtherCodecs
from cir_data.draws import Mixture
from cir_data.images.compression import UNKNOWN_QUALITY, Subsampling, Tables
from cir_data.images.geometry import Boundary, Window
from cir_data.images.jpeg_facts import stored_tables
from cir_data.options import DoubleOptions, FactorRange, JPEGRestorationOptions, Library
from cir_host.errors import OptionsError, UserError
from cir_host.file_names import expanded

NO_GRID: Boundary = (-1, -1)
"""Block grid of a first compression that did not happen, or was resized afterwards."""

_SHIFTS = 16


class JPEGDraws:
    """Draws the degradations that a section of options describes."""

    def __init__(self, options: JPEGRestorationOptions, where: str) -> None:
        tables = options.tables and _tables(options.tables, f"{where}.tables")
        # with tables, a codec ignores the quality
        self._quality = Mixture[int].of(options.quality or 100)
        self._subsampling = Mixture[Subsampling].of(options.subsampling)
        self._codecs = {
            sampling: _codec(options.library, sampling, tables or None, options.progressive)
            for sampling in self._subsampling.values
        }
        self._first = _FirstDraws(options.double, options.library) if options.double else None
        self._others = None
        if options.other_codecs or options.uncompressed:
            self._others = OtherCodecs(
                options.other_codecs or (), options.uncompressed, f"{where}.other_codecs"
            )
        self.version = next(iter(self._codecs.values())).version

    def draw(self, rng: np.random.Generator) -> Degradation:
        """Draw the steps for one image."""
        other = self._others.draw(rng) if self._others else None
        if other is not None:
            return Degradation([other])
        last = Compress(self._codecs[self._subsampling.draw(rng)], self._quality.draw(rng))
        return Degradation([*(self._first.draw(rng) if self._first else ()), last])


class _FirstDraws:
    """Draws the steps before the last compression."""

    def __init__(self, options: DoubleOptions, library: Library) -> None:
        self._options = options
        self._quality = Mixture[int].of(options.quality)
        self._subsampling = Mixture[Subsampling].of(options.subsampling)
        self._codecs = {s: _codec(library, s) for s in self._subsampling.values}

    def draw(self, rng: np.random.Generator) -> list[Step]:
        if rng.random() >= self._options.probability:
            return []
        codec = self._codecs[self._subsampling.draw(rng)]
        steps: list[Step] = [Compress(codec, self._quality.draw(rng))]
        factor = self._factor(rng)
        if factor != 1:
            steps.append(Resize(factor))
        rows, columns = self._shift(rng)
        if rows or columns:
            steps.append(CutOff(rows, columns))
        return steps

    def _factor(self, rng: np.random.Generator) -> float:
        resize = self._options.resize
        if not isinstance(resize, FactorRange):
            return resize or 1
        if rng.random() >= resize.probability:
            return 1
        return float(rng.uniform(*resize.range))

    def _shift(self, rng: np.random.Generator) -> tuple[int, int]:
        shift = self._options.shift
        probability = self._options.shift_probability
        if shift == "none" or (probability < 1 and rng.random() >= probability):
            return 0, 0
        if shift == "random":
            rows, columns = rng.integers(_SHIFTS, size=2).tolist()
            return rows, columns
        return shift


def first_compression(degradation: Degradation) -> tuple[int, str, float]:
    """Return quality and subsampling of the first of two compressions, and the resize factor.

    For a single compression these are -1, ``none`` and 1.
    """
    quality, subsampling, factor = UNKNOWN_QUALITY, "none", 1.0
    for step in degradation.steps[:-1]:
        if isinstance(step, Compress) and isinstance(step.codec, JPEG):
            quality, subsampling = step.quality, step.codec.subsampling
        elif isinstance(step, Resize):
            factor = step.factor
    return quality, subsampling, factor


def told_quality(degradation: Degradation, lowest: bool) -> int:
    """Return the quality that a sample states: 1 to 100 as of JPEG, or -1 for another codec.

    Args:
        degradation: What was drawn.
        lowest: Of two compressions, take the lower quality, not that of the last one.
    """
    codec, quality = degradation.last.codec, degradation.last.quality
    if not isinstance(codec, JPEG | Uncompressed):
        return UNKNOWN_QUALITY
    known = codec.record(quality, grey=False).quality
    first, _, _ = first_compression(degradation)
    return min(known, first) if lowest and UNKNOWN_QUALITY not in (known, first) else known


def first_grid(degradation: Degradation, window: Window) -> Boundary:
    """Return the block grid of the first of two compressions in a crop; else NO_GRID."""
    before = degradation.steps[:-1]
    if not before or any(isinstance(step, Resize) for step in before):
        return NO_GRID
    for step in before:
        if isinstance(step, CutOff):
            window = window.moved(step.rows, step.columns)
    return window.move_boundary((0, 0))


def _codec(
    library: Library,
    subsampling: Subsampling,
    tables: Tables | None = None,
    progressive: bool = False,
) -> JPEG:
    if library == "pillow":
        return JPEG(subsampling, tables, progressive)
    return IJGJpeg(subsampling, tables, release=library.removeprefix("libjpeg-"))


def _tables(option: str | list[list[int]], where: str) -> Tables:
    if isinstance(option, str):
        return read_tables(expanded(option), where)
    return tuple(tuple(table) for table in option)


def read_tables(path: Path, where: str) -> Tables:
    """Read quantisation tables from a JPEG file, or from a text file of 64 or 128 integers.

    In a text file, ``#`` starts a comment.

    Args:
        path: The file.
        where: The key that names it, for messages.

    Raises:
        UserError: The file cannot be read.
        OptionsError: It is neither.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{where}: {path}: {error.strerror}") from error
    try:
        with Image.open(io.BytesIO(data)) as image:
            if isinstance(image, JpegImageFile):
                return stored_tables(image)[:2]
    except UnidentifiedImageError:
        pass
    text = re.sub(r"#.*", "", data.decode("utf-8", "replace"))
    words = re.split(r"[\s,]+", text.strip())
    numbers = [int(word) for word in words if word.isdecimal()]
    if len(numbers) not in (64, 128) or len(words) != len(numbers):
        raise OptionsError(f"{where}: {path} is neither a JPEG nor a text of 64 or 128 integers")
    if not all(1 <= number <= 255 for number in numbers):
        raise OptionsError(f"{where}: {path} has entries outside 1 to 255")
    return tuple(tuple(numbers[i : i + 64]) for i in range(0, len(numbers), 64))
