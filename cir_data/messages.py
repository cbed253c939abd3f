"""Words of messages that several modules need."""

from collections.abc import Sequence


def first_few(names: Sequence[str], most: int = 3) -> str:
    """Name the first few of many, and count the others.

    Example:
        >>> first_few(["a.png", "b.png", "c.png", "d.png", "e.png"])
        'a.png, b.png, c.png and 2 more'
    """
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"
