"""Optimizer steps whose numbers stay on the GPU until someone reads them."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.optim import Optimizer

_MOST_WAITING = 100
"""Steps after which the numbers are read at the latest."""


@dataclass(frozen=True)
class Steps:
    """What happened in the steps since the last reading."""

    count: int
    values: dict[str, float]
    """Losses and gradient norms of the last step."""
    skipped: int
    """Steps without an update, because a value was not finite."""
    longest: int
    """Most such steps in a row, with those before this reading."""
    in_a_row: int
    """Such steps in a row at the end."""


class StepsOnDevice:
    """Takes steps with fused optimizers and skips, on the device, those that are not finite.

    To decide on the processor whether a step is taken, it must wait for the GPU in each step, and
    the GPU then waits for the next one. A fused optimizer takes the decision as a tensor instead.

    Args:
        device: Of the networks.
    """

    def __init__(self, device: torch.device) -> None:
        self.waiting = 0
        """Steps since the last reading."""
        self._values: Mapping[str, Tensor] = {}
        self._counts = torch.zeros(3, dtype=torch.int64, device=device)

    @property
    def full(self) -> bool:
        """Whether it is time to read the numbers."""
        return self.waiting >= _MOST_WAITING

    def take(self, optimizers: Iterable[Optimizer], values: Mapping[str, Tensor]) -> Tensor:
        """Take a step if all values are finite.

        Args:
            optimizers: Fused ones; gradients are in place.
            values: Losses and gradient norms, scalars.

        Returns:
            Whether the step was taken; a scalar on the device.
        """
        bad = ~torch.stack([value.float() for value in values.values()]).isfinite().all()
        for optimizer in optimizers:
            optimizer.found_inf = bad.float()  # type: ignore[attr-defined]
            optimizer.step()
        skipped, in_a_row, longest = self._counts.unbind()
        in_a_row = (in_a_row + 1) * bad
        self._counts = torch.stack((skipped + bad, in_a_row, longest.maximum(in_a_row)))
        self._values = {name: value.detach() for name, value in values.items()}
        self.waiting += 1
        return ~bad

    def read(self) -> Steps:
        """Wait for the device, and return what happened since the last reading."""
        numbers = torch.stack([value.double() for value in self._values.values()])
        *values, skipped, in_a_row, longest = torch.cat((numbers, self._counts.double())).tolist()
        count, self.waiting = self.waiting, 0
        self._counts = self._counts * self._counts.new_tensor([0, 1, 0])
        return Steps(
            count=count,
            values=dict(zip(self._values, values, strict=True)),
            skipped=int(skipped),
            longest=int(longest),
            in_a_row=int(in_a_row),
        )
