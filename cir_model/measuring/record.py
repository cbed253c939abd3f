"""One measurement: how close the input and the output of one image are to the ground truth."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

KINDS = ("input", "output", "gain")
"""What a score is of; the gain is positive where the output is better than the input."""

Scores: TypeAlias = Mapping[str, Mapping[str, float]]
"""``scores[metric][kind]`` with the kinds of :data:`KINDS`; a score without a value is absent."""


@dataclass(frozen=True)
class Measurement:
    """The scores of one image of a data set."""

    data_set: str
    image: str
    scores: Scores
    made_by: Mapping[str, Any] = field(default_factory=dict)
    """How the input was made, such as ``quality``, ``subsampling`` and ``codec``."""
    iteration: int | str | None = None
    """The training iteration that was validated, or the name of a test."""
    height: int | None = None
    """Of the input, in pixels."""
    width: int | None = None
    seconds: float | None = None
    """How long the network took."""


def values_of(records: Iterable[Measurement], metric: str, kind: str) -> list[float]:
    """Return one score of each record that has it."""
    scores = (record.scores.get(metric, {}) for record in records)
    return [score[kind] for score in scores if kind in score]


def mean_of(records: Iterable[Measurement], metric: str, kind: str) -> float:
    """Return the mean of one score over the records that have it; NaN if none has.

    Example:
        >>> from cir_model.measuring.record import Measurement, mean_of
        >>> psnrs = [28.0, 30.0]
        >>> records = [Measurement("LIVE1", "a", {"psnr": {"output": psnr}}) for psnr in psnrs]
        >>> mean_of(records, "psnr", "output")
        29.0
    """
    values = values_of(records, metric, kind)
    return math.fsum(values) / len(values) if values else math.nan
