"""Reading the arguments of a network off the shapes in its state dict."""

import math
from collections.abc import Callable, Iterable, Mapping

from torch import Tensor

State = Mapping[str, Tensor]
"""Tensors by name, as ``Module.state_dict`` gives them; only names and shapes are read."""


def entry_count(state: State, prefix: str, inside: str = "") -> int:
    """Count the entries of a list of modules.

    Args:
        state: The state dict.
        prefix: What stands before the index, with its dot: ``layers.``.
        inside: What must follow the index, with its dots, for an entry to count: ``.attn.``.
    """
    rests = (name[len(prefix) :] for name in state if name.startswith(prefix))
    indices = (rest.partition(".") for rest in rests)
    return len({i for i, dot, rest in indices if i.isdecimal() and (dot + rest).startswith(inside)})


def divisor(pairs: Iterable[tuple[int, int]], default: int) -> int:
    """Return what turns widths into parts by whole division, the default where it does.

    Args:
        pairs: Width and part, such as (180, 60).
        default: What is tried first; the largest that does comes next.

    Raises:
        ValueError: If no number does.
    """
    pairs = list(pairs)
    largest = min(width // part for width, part in pairs)
    for candidate in (default, largest):
        if all(width // candidate == part for width, part in pairs):
            return candidate
    raise ValueError(f"no divisor gives {pairs}")


def ratio(
    pairs: Iterable[tuple[int, int]],
    default: float,
    scaled: Callable[[int, float], int] = lambda width, factor: int(width * factor),
) -> float:
    """Return a factor that turns widths into the given ones, the default where it does.

    Several do, because widths are rounded; they make the same network. Of the others the one with
    the fewest decimals is taken.

    Args:
        pairs: Width before and after, such as (48, 127).
        default: What is tried first.
        scaled: How the network computes the second from the first.

    Raises:
        ValueError: If no factor does.
    """
    pairs = list(pairs)
    about = max(pairs)[1] / max(pairs)[0]
    shortest = (
        rounded(about * power) / power
        for power in (10.0**digits for digits in range(8))
        for rounded in (math.ceil, math.floor)
    )
    for candidate in (default, *shortest, about):
        if all(scaled(width, candidate) == result for width, result in pairs):
            return candidate
    raise ValueError(f"no ratio gives {pairs}")
