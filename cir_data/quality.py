"""The quality of an online compression: one value, or values to draw from."""

from dataclasses import dataclass
from typing import Annotated, TypeAlias

import msgspec
import numpy as np
from msgspec import Meta

QualityValue: TypeAlias = Annotated[int, Meta(ge=1, le=100)]


class QualityDraw(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """``{choices: [10, 20, 30]}`` or ``{range: [10, 70]}`` as an options file gives it."""

    choices: Annotated[
        Annotated[list[QualityValue], Meta(min_length=1)] | None,
        Meta(description="Qualities drawn with equal probability; a repeated one counts twice."),
    ] = None
    range: Annotated[
        tuple[QualityValue, QualityValue] | None,
        Meta(
            description="Lowest and highest quality; all integers from one to the other, both ends"
            " included, are drawn with equal probability."
        ),
    ] = None

    def __post_init__(self) -> None:
        if (self.choices is None) == (self.range is None):
            raise ValueError("give either choices or range")
        if self.range is not None and self.range[0] > self.range[1]:
            low, high = self.range
            raise ValueError(f"range [{low}, {high}]: the first end must not exceed the second")


@dataclass(frozen=True)
class Quality:
    """Qualities from 1 to 100 that are drawn with equal probability."""

    values: tuple[int, ...]

    @classmethod
    def from_option(cls, option: int | QualityDraw) -> "Quality":
        """Take the value of the key ``quality``, already checked."""
        if isinstance(option, int):
            return cls((option,))
        if option.choices is not None:
            return cls(tuple(option.choices))
        assert option.range is not None  # checked by QualityDraw
        low, high = option.range
        return cls(tuple(range(low, high + 1)))

    def draw(self, rng: np.random.Generator) -> int:
        """Return one of the values."""
        return self.values[rng.integers(len(self.values))]
