"""Random values of a degradation: one value, a choice, a range, or a weighted mixture."""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Annotated, Generic, TypeAlias, TypeVar, cast

import msgspec
import numpy as np
from msgspec import Meta

T = TypeVar("T")

JPEGQuality: TypeAlias = Annotated[int, Meta(ge=1, le=100)]


class Choice(msgspec.Struct, Generic[T], forbid_unknown_fields=True, kw_only=True):
    """``{choices: ["4:2:0", "4:4:4"]}`` in an options file."""

    choices: Annotated[
        Annotated[list[T], Meta(min_length=1)],
        Meta(description="Values drawn with equal probability; a repeated one counts twice."),
    ]

    @property
    def values(self) -> Sequence[T]:
        """All values."""
        return self.choices


class Draw(msgspec.Struct, Generic[T], forbid_unknown_fields=True, kw_only=True):
    """``{choices: [10, 20, 30]}`` or ``{range: [10, 70]}`` in an options file."""

    choices: Annotated[
        Annotated[list[T], Meta(min_length=1)] | None,
        Meta(description="Values drawn with equal probability; a repeated one counts twice."),
    ] = None
    range: Annotated[
        tuple[T, T] | None,
        Meta(
            description="Lowest and highest value, both included; all integers in the range"
            " are drawn with equal probability."
        ),
    ] = None

    def __post_init__(self) -> None:
        if (self.choices is None) == (self.range is None):
            raise ValueError("give either choices or range")
        if self.range is not None:
            check_range(cast(tuple[int, int], self.range))

    @property
    def values(self) -> Sequence[T]:
        """All values."""
        if self.choices is not None:
            return self.choices
        low, high = cast(tuple[int, int], self.range)
        return cast(Sequence[T], range(low, high + 1))


Weight: TypeAlias = Annotated[
    float,
    Meta(gt=0, description="How often this entry is drawn, relative to the other weights."),
]


class WeightedChoice(Choice[T], Generic[T], forbid_unknown_fields=True, kw_only=True):
    """An entry of a mixture of names."""

    weight: Weight


class WeightedDraw(Draw[T], Generic[T], forbid_unknown_fields=True, kw_only=True):
    """An entry of a mixture: ``{range: [8, 96], weight: 0.25}``."""

    weight: Weight


IntegerOption: TypeAlias = T | Draw[T] | Annotated[list[WeightedDraw[T]], Meta(min_length=1)]
"""One integer, ``{choices: [...]}``, ``{range: [...]}``, or a list of these with weights."""

NameOption: TypeAlias = T | Choice[T] | Annotated[list[WeightedChoice[T]], Meta(min_length=1)]
"""One name, ``{choices: [...]}``, or a list of these with weights."""


@dataclass(frozen=True)
class Mixture(Generic[T]):
    """Entries drawn by weight; within an entry, all values are equally likely.

    Example:
        >>> mixture = Mixture.weighted([(10, 20), range(30, 91)], [0.75, 0.25])
        >>> mixture.draw(np.random.default_rng(0)) in mixture.values
        True
    """

    entries: tuple[Sequence[T], ...]
    bounds: tuple[float, ...]
    """Upper end of each entry's share of [0, 1), except the last one's."""

    @classmethod
    def of(
        cls, option: T | Draw[T] | Choice[T] | list[WeightedDraw[T]] | list[WeightedChoice[T]]
    ) -> "Mixture[T]":
        """Create it from the value of a key, which is checked already."""
        if isinstance(option, list):
            return cls.weighted(
                [entry.values for entry in option], [entry.weight for entry in option]
            )
        return cls((option.values if isinstance(option, Draw | Choice) else (option,),), ())

    @classmethod
    def weighted(cls, entries: Sequence[Sequence[T]], weights: Sequence[float]) -> "Mixture[T]":
        """Create it from entries with one weight each."""
        sums = list(accumulate(weights))
        return cls(tuple(entries), tuple(s / sums[-1] for s in sums[:-1]))

    @property
    def values(self) -> set[T]:
        """All values."""
        return {value for entry in self.entries for value in entry}

    @property
    def fixed(self) -> bool:
        """Whether there is only one value."""
        return len(self.values) == 1

    def draw(self, rng: np.random.Generator) -> T:
        """Return one of the values."""
        entry = self.entries[0]
        if self.bounds:
            entry = self.entries[bisect_right(self.bounds, rng.random())]
        return entry[int(rng.integers(len(entry)))]


def check_range(ends: tuple[float, float]) -> None:
    """Raise a ``ValueError`` if the first end of a range exceeds the second."""
    low, high = ends
    if low > high:
        raise ValueError(f"range [{low}, {high}]: the first end must not exceed the second")
