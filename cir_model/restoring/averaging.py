"""Weighted means of the outputs of networks, tile sizes and symmetries."""

import math
from collections.abc import Sequence

from torch import Tensor


def relative_weights(weights: Sequence[float] | None, count: int) -> list[float]:
    """Divide the weights of networks by the largest.

    Equal weights become exactly 1, so their mean is the plain mean to the last bit.

    Args:
        weights: None: equal weights.
        count: Of the networks.

    Raises:
        ValueError: Their number is another, one is negative or not finite, or all are 0.
    """
    if weights is None:
        return [1.0] * count
    if len(weights) != count:
        raise ValueError(
            f"{len(weights)} given for {count} network{'s' * (count != 1)}; give one for each"
        )
    for weight in weights:
        if not 0 <= weight < math.inf:
            raise ValueError(f"{weight} is not a weight; give a number from 0")
    if not any(weights):
        raise ValueError("all are 0; give one network a positive weight")
    return [weight / max(weights) for weight in weights]


def describe_weights(weights: Sequence[float]) -> str:
    """Return the number of networks, and their shares if these differ.

    Example:
        >>> from cir_model.restoring.averaging import describe_weights
        >>> describe_weights([1, 1]), describe_weights([1, 0.25])
        ('2', '2, weights 0.8, 0.2')
    """
    if len(set(weights)) == 1:
        return str(len(weights))
    shares = (f"{weight / sum(weights):.3g}" for weight in weights)
    return f"{len(weights)}, weights {', '.join(shares)}"


class Mean:
    """A weighted mean of images, which are added one at a time.

    Example:
        >>> import torch
        >>> from cir_model.restoring.averaging import Mean
        >>> mean = Mean()
        >>> mean.add(torch.tensor([1.0]), 1)
        >>> mean.add(torch.tensor([2.0]), 0.25)
        >>> mean.result()
        tensor([1.2000])
    """

    def __init__(self) -> None:
        self._total: Tensor | None = None
        self._weight = 0.0

    def add(self, image: Tensor, weight: float) -> None:
        """Add an image, which stays as it is, with a positive weight."""
        if self._total is None:
            self._total = image if weight == 1 else image * weight
        else:  # not in place: the first image may share its memory with the input of the network
            self._total = self._total.add(image, alpha=weight)
        self._weight += weight

    def result(self) -> Tensor:
        """Return the mean; at least one image must have been added."""
        assert self._total is not None
        return self._total if self._weight == 1 else self._total / self._weight
