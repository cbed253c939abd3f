"""By how much a predicted JPEG quality is wrong."""

from typing import Any

from cir_host.errors import UndefinedMetric
from cir_host.registration import register


@register("metric")
def calculate_quality_error(
    predicted_quality: float | None = None, quality: float | None = None, **_: Any
) -> float:
    """Return the absolute error of a predicted quality factor; lower is better.

    Args:
        predicted_quality: On JPEG's scale, 0 to 100; ``CaVEModel`` supplies both.
        quality: That of the compression, 1 to 100.

    Raises:
        UndefinedMetric: One of them is not known.
    """
    if predicted_quality is None:
        raise UndefinedMetric("no quality is predicted; model_type: CaVEModel does it")
    if quality is None:
        raise UndefinedMetric("the quality of the image is not known")
    return abs(predicted_quality - quality)
