"""Averaged weights (EMA) that are complete."""

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch


def with_buffers(original: Callable[..., Any]) -> Callable[..., Any]:
    """Make ``BaseModel.model_ema`` copy the buffers of the trained network.

    BasicSR averages the parameters only, so that batch norm's running statistics stay as they were
    at the start. Buffers are copied as they are, not averaged. One of another shape is a cache for
    the size of the last image, and left alone.
    """

    @wraps(original)
    @torch.no_grad()
    def model_ema(self: Any, decay: float = 0.999) -> None:
        original(self, decay)
        trained = dict(self.get_bare_model(self.net_g).named_buffers())
        for name, averaged in self.net_g_ema.named_buffers():
            if name in trained and averaged.shape == trained[name].shape:
                averaged.copy_(trained[name])

    return model_ema
