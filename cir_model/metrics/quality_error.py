"""The error of a predicted JPEG quality."""

from typing import Any

from cir_host.errors import UndefinedMetric
from cir_host.registration import register


@register("metric")
def calculate_quality_error(
    predicted_quality: float | None = None, quality: float | None = None, **_: Any
) -> float:
    """Return the absolute error of a predicted quality factor; lower is better.

    Args:
        predicted_quality: 0 to 100; ``CaVEModel`` supplies both arguments.
        quality: The true quality, 1 to 100.

    Raises:
        UndefinedMetric: One of them is unknown.

    Example:
        >>> from cir_model import calculate_quality_error
        >>> calculate_quality_error(predicted_quality=42.5, quality=40)
        2.5
    """
    if predicted_quality is None:
        raise UndefinedMetric("there is no predicted quality; model_type: CaVEModel gives it")
    if quality is None:
        raise UndefinedMetric("the quality of the image is unknown")
    return abs(predicted_quality - quality)
