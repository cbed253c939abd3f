"""Values that a degradation draws: one, a choice, a range, or a weighted mixture of these."""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Annotated, Generic, TypeAlias, TypeVar

import msgspec
import numpy as np
from msgspec import Meta

T = TypeVar("T")
Drawable = TypeVar("Drawable", int, str)

JPEGQuality: TypeAlias = Annotated[int, Meta(ge=1, le=100)]


class Choice(msgspec.Struct, Generic[T], forbid_unknown_fields=True, kw_only=True):
    """``{choices: ["4:2:0", "4:4:4"]}`` as an options file gives it."""

    choices: Annotated[
        Annotated[list[T], Meta(min_length=1)],
        Meta(description="Values drawn with equal probability; a repeated one counts twice."),
    ]


class Draw(msgspec.Struct, Generic[T], forbid_unknown_fields=True, kw_only=True):
    """``{choices: [10, 20, 30]}`` or ``{range: [10, 70]}`` as an options file gives it."""

    choices: Annotated[
        Annotated[list[T], Meta(min_length=1)] | None,
        Meta(description="Values drawn with equal probability; a repeated one counts twice."),
    ] = None
    range: Annotated[
        tuple[T, T] | None,
        Meta(
            description="Lowest and highest value; all integers from one to the other, both ends"
            " included, are drawn with equal probability."
        ),
    ] = None

    def __post_init__(self) -> None:
        if (self.choices is None) == (self.range is None):
            raise ValueError("give either choices or range")
        if self.range is not None:
            check_range(self.range)


Weight: TypeAlias = Annotated[
    float,
    Meta(gt=0, description="How often this entry is taken, in relation to the other weights."),
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
class Mixture(Generic[Drawable]):
    """Entries, taken by their weights, of values that are drawn with equal probability."""

    entries: tuple[Sequence[Drawable], ...]
    bounds: tuple[float, ...]
    """The upper end of each entry's share of [0, 1)."""

    @classmethod
    def from_option(
        cls, option: IntegerOption[Drawable] | NameOption[Drawable]
    ) -> "Mixture[Drawable]":
        """Take the value of a key, already checked."""
        if not isinstance(option, list):
            return cls((_values(option),), (1.0,))
        total = sum(entry.weight for entry in option)
        sums = accumulate(entry.weight for entry in option[:-1])
        return cls(tuple(map(_values, option)), (*(s / total for s in sums), 1.0))

    @property
    def fixed(self) -> bool:
        """Whether there is one value only."""
        return len({value for entry in self.entries for value in entry}) == 1

    @property
    def values(self) -> list[Drawable]:
        """All values, in ascending order."""
        return sorted({value for entry in self.entries for value in entry})

    def draw(self, rng: np.random.Generator) -> Drawable:
        """Return one of the values."""
        entry = self.entries[0]
        if len(self.entries) > 1:
            entry = self.entries[bisect_right(self.bounds, rng.random())]
        return entry[rng.integers(len(entry))]


def _values(option: Drawable | Draw[Drawable] | Choice[Drawable]) -> Sequence[Drawable]:
    if not isinstance(option, Draw | Choice):
        return (option,)
    if option.choices is not None:
        return tuple(option.choices)
    assert isinstance(option, Draw)
    assert option.range is not None  # checked by Draw
    low, high = option.range
    return range(low, high + 1)


def check_range(ends: tuple[float, float]) -> None:
    """Refuse a range whose first end is the higher one, by a ``ValueError``."""
    low, high = ends
    if low > high:
        raise ValueError(f"range [{low}, {high}]: the first end must not exceed the second")
