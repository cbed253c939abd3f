"""Helpers that read the arguments of a network off the shapes in its state dict."""

import math
import re
from collections.abc import Callable, Iterable, Mapping, MutableMapping

from torch import Tensor

State = Mapping[str, Tensor]
"""Tensors by name, as ``Module.state_dict`` returns them; only names and shapes are read."""


def drop_entries(state: MutableMapping[str, Tensor], prefix: str, pattern: str) -> None:
    """Delete entries that a network does not need, so that strict loading accepts the rest.

    Args:
        state: What ``Module._load_from_state_dict`` gets.
        prefix: The same.
        pattern: Regular expression that matches the beginnings of their names after the prefix.
    """
    unneeded = re.compile(re.escape(prefix) + f"(?:{pattern})")
    for name in [name for name in state if unneeded.match(name)]:
        del state[name]


def entries_below(state: State, prefix: str) -> dict[str, Tensor]:
    """Return the entries whose names begin with a prefix, without it."""
    return {n.removeprefix(prefix): v for n, v in state.items() if n.startswith(prefix)}


def entry_count(state: State, prefix: str, inside: str = "") -> int:
    """Count the entries of a list of modules.

    Args:
        state: The state dict.
        prefix: The part of the names before the index, with its dot: ``layers.``.
        inside: Only entries whose names continue with this after the index count: ``.attn.``.
    """
    rests = (name[len(prefix) :] for name in state if name.startswith(prefix))
    indices = (rest.partition(".") for rest in rests)
    return len({i for i, dot, rest in indices if i.isdecimal() and (dot + rest).startswith(inside)})


def divisor(pairs: Iterable[tuple[int, int]], default: int) -> int:
    """Return the number by which whole division turns widths into the given parts.

    Args:
        pairs: Width and part, such as (180, 60).
        default: Returned if it fits; otherwise the largest number that fits is returned.

    Raises:
        ValueError: If no number fits.
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
    """Return a factor that turns widths into the given ones.

    Several factors fit, because widths are rounded; they give the same network.

    Args:
        pairs: Width before and after, such as (48, 127).
        default: Returned if it fits; otherwise the factor with the fewest decimals is returned.
        scaled: How the network computes the second width from the first and the factor; never
            smaller for a larger factor.

    Raises:
        ValueError: If no factor fits.
    """
    pairs = sorted(set(pairs))

    def fits(factor: float) -> bool:
        return all(scaled(width, factor) == result for width, result in pairs)

    def is_enough(factor: float) -> bool:
        return all(scaled(width, factor) >= result for width, result in pairs)

    if fits(default):
        return default
    least = _smallest(is_enough, max(result / width for width, result in pairs) + 1)
    for power in (10.0**digits for digits in range(8)):
        below = math.floor(least * power)
        for candidate in (below / power, (below + 1) / power):
            if fits(candidate):
                return candidate
    if fits(least):
        return least
    raise ValueError(f"no ratio gives {pairs}")


def _smallest(holds: Callable[[float], bool], above: float) -> float:
    """Return the smallest positive number that meets a condition which all larger ones meet."""
    below = 0.0
    while below < (middle := (below + above) / 2) < above:
        below, above = (below, middle) if holds(middle) else (middle, above)
    return above
