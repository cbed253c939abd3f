"""Computing a part of a network in float32 or float64."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def without_autocast(x: Tensor) -> AbstractContextManager[object]:
    """Return a context in which autocast is off on the device of ``x``."""
    # The meta device has no autocast to switch off.
    return nullcontext() if x.is_meta else torch.autocast(x.device.type, enabled=False)
