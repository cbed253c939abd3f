"""EMA weights that include buffers and frozen parameters."""

from collections.abc import Callable
from functools import wraps
from itertools import chain
from typing import Any

import torch


def with_buffers(original: Callable[..., Any]) -> Callable[..., Any]:
    """Make ``BaseModel.model_ema`` copy the buffers of the trained network.

    BasicSR averages only the parameters, so batch norm's running statistics would keep their
    initial values. Buffers are copied, not averaged; a buffer of another shape is a cache for the
    size of the last image and is left alone. Frozen parameters are copied too, since averaging
    would make them drift by rounding.

    BasicSR averages tensor by tensor, with two launches for each; here one call averages all.
    """

    @wraps(original)
    @torch.no_grad()
    def model_ema(self: Any, decay: float | torch.Tensor = 0.999) -> None:
        averages = dict(self.net_g_ema.named_parameters())
        trained = {
            name: parameter
            for name, parameter in self.get_bare_model(self.net_g).named_parameters()
            if parameter.requires_grad
        }
        averaged_ones = [averages[name] for name in trained]
        torch._foreach_mul_(averaged_ones, decay)
        if isinstance(decay, torch.Tensor):  # on the device, which alpha cannot be
            shares = torch._foreach_mul(list(trained.values()), 1 - decay)
            torch._foreach_add_(averaged_ones, shares)
        else:
            torch._foreach_add_(averaged_ones, list(trained.values()), alpha=1 - decay)
        network = self.get_bare_model(self.net_g)
        frozen = ((n, p) for n, p in network.named_parameters() if not p.requires_grad)
        kept = dict(chain(network.named_buffers(), frozen))
        for name, averaged in chain(
            self.net_g_ema.named_buffers(), self.net_g_ema.named_parameters()
        ):
            if name in kept and averaged.shape == kept[name].shape:
                averaged.copy_(kept[name])

    return model_ema
