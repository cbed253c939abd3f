"""Values of flags that several commands take."""

import argparse
from collections.abc import Callable


def shard(text: str) -> tuple[int, int]:
    """Parse ``1/4``, the first of four parts."""
    part, _, parts = text.partition("/")
    if not (part.isdecimal() and parts.isdecimal() and 1 <= int(part) <= int(parts)):
        raise argparse.ArgumentTypeError(f"{text!r} is not like 1/4, ..., 4/4")
    return int(part), int(parts)


def tile(text: str) -> int | str:
    """Parse pixels, or ``auto``."""
    return text if text == "auto" else number(0, 2**31)(text)


def number(least: int, most: int) -> Callable[[str], int]:
    """Return a parser of integers from ``least`` to ``most``."""

    def parse(text: str) -> int:
        if not text.isdecimal() or not least <= int(text) <= most:
            raise argparse.ArgumentTypeError(f"{text!r} is no integer from {least} to {most}")
        return int(text)

    return parse
