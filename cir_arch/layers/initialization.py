"""Initial values."""

from torch import nn


def init_linear_layers(module: nn.Module) -> None:
    """Initialise a linear layer as vision transformers do; for ``Module.apply``."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
