"""Parsers of the values of flags."""

import argparse
import re
from collections.abc import Callable


def shard(text: str) -> tuple[int, int]:
    """Parse ``1/4``, the first of four parts."""
    part, _, parts = text.partition("/")
    if not (part.isdecimal() and parts.isdecimal() and 1 <= int(part) <= int(parts)):
        raise argparse.ArgumentTypeError(f"{text!r} is not I/N, such as 1/4")
    return int(part), int(parts)


def tile(text: str) -> int | str:
    """Parse a number of pixels, or ``auto``."""
    return text if text == "auto" else number(0, 2**31)(text)


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
