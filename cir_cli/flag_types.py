"""The types of flags, in argparse's sense: functions that parse a value."""

import argparse
import math
import os
import re
from collections.abc import Callable
from pathlib import Path


def shard(text: str) -> tuple[int, int]:
    """Parse ``1/4``, the first of four parts."""
    part, _, parts = text.partition("/")
    if not (part.isdecimal() and parts.isdecimal() and 1 <= int(part) <= int(parts)):
        raise argparse.ArgumentTypeError(f"{text!r} is not I/N, such as 1/4")
    return int(part), int(parts)


def tile(text: str) -> int | str:
    """Parse a number of pixels, or ``auto``."""
    return text if text == "auto" else number(0, 2**31)(text)


def tiles(text: str) -> int | str | tuple[int, ...]:
    """Parse a number of pixels, ``auto``, or several numbers such as ``288,320,352``."""
    if "," not in text:
        return tile(text)
    return tuple(number(1, 2**31)(size) for size in text.split(","))


def weighted(text: str) -> tuple[Path, float | None]:
    """Parse a path, or a path with a weight such as ``A.pth=0.8``; an existing path has none."""
    name, equals, given = text.rpartition("=")
    if not equals or os.path.lexists(text):
        return Path(text), None
    try:
        weight = float(given)
    except ValueError:
        weight = math.nan
    if not name or not 0 <= weight < math.inf:
        raise argparse.ArgumentTypeError(
            f"{text!r} is neither a file nor FILE=WEIGHT with a weight from 0, such as A.pth=0.8"
        )
    return Path(name), weight


def image_size(text: str) -> tuple[int, int]:
    """Parse ``256x384``, height and width."""
    found = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", text)
    if found is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not HEIGHTxWIDTH, such as 256x384")
    return int(found[1]), int(found[2])


def share(text: str) -> float:
    """Parse a number from 0 to 1."""
    try:
        value = float(text)
    except ValueError:
        value = -1
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 to 1")
    return value


def number(least: int, most: int) -> Callable[[str], int]:
    """Return a parser of integers from ``least`` to ``most``."""

    def parse(text: str) -> int:
        if not text.isdecimal() or not least <= int(text) <= most:
            raise argparse.ArgumentTypeError(f"{text!r} is not an integer from {least} to {most}")
        return int(text)

    return parse


def at_least(least: int) -> Callable[[str], int]:
    """Return a parser of integers of at least ``least``."""

    def parse(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"{text!r} is not an integer of at least {least}")
        return int(text)

    return parse
