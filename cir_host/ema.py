"""Averaged weights (EMA) that are complete."""

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch


def with_buffers(original: Callable[..., Any]) -> Callable[..., Any]:
    """Make ``BaseModel.model_ema`` copy the buffers of the trained network.

    BasicSR averages the parameters only, so that batch norm's running statistics stay as they were
    at the start. Every buffer that a checkpoint stores is copied as it is, not averaged.
    """

    @wraps(original)
    @torch.no_grad()
    def model_ema(self: Any, decay: float = 0.999) -> None:
        original(self, decay)
        trained = self.get_bare_model(self.net_g).state_dict()
        parameters = {name for name, _ in self.net_g_ema.named_parameters(remove_duplicate=False)}
        for name, averaged in self.net_g_ema.state_dict().items():
            if name not in parameters and isinstance(averaged, torch.Tensor):
                averaged.copy_(trained[name])

    return model_ema
