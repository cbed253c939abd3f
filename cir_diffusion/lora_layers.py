"""LoRA layers that are trained; :mod:`cir_diffusion.lora` reads and merges what they learn.

The state dict of a layer has the names of CODiff's checkpoints: the layer itself is ``base_layer``.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeAlias

from torch import Tensor, nn

from cir_diffusion.lora import ALPHA
from cir_host.errors import UserError

Layer: TypeAlias = nn.Linear | nn.Conv2d


class LoRALayer(nn.Module):
    """A frozen layer whose weight W becomes W + (alpha / r) B A, of which A and B are trained.

    It begins as the layer alone: B is 0, and A is normal with a standard deviation of 1 / r.

    Args:
        layer: The layer; it is frozen.
        rank: r, the number of rows of A.
        adapter: The name under which a state dict has A and B.
    """

    def __init__(self, layer: Layer, rank: int, adapter: str) -> None:
        super().__init__()
        self.base_layer = layer.requires_grad_(False)
        self.rank = rank
        self.adapter = adapter
        self.active = True
        """Whether the change is applied."""
        down, up = _factors(layer, rank)
        nn.init.normal_(down.weight, std=1 / rank)
        nn.init.zeros_(up.weight)
        self.lora_A = nn.ModuleDict({adapter: down})
        self.lora_B = nn.ModuleDict({adapter: up})

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., C) to (..., C'), or (B, C, H, W) to (B, C', H', W'), like the layer itself."""
        output: Tensor = self.base_layer(x)
        if not self.active:
            return output
        change: Tensor = self.lora_B[self.adapter](self.lora_A[self.adapter](x))
        return output + ALPHA / self.rank * change


def add_lora(
    network: nn.Module, layers: Iterable[str], rank: int, adapter_of: Callable[[str], str]
) -> None:
    """Replace layers of a network by :class:`LoRALayer`.

    Args:
        network: The network.
        layers: Names of its linear and convolutional layers.
        rank: See :class:`LoRALayer`.
        adapter_of: Returns the adapter's name for the name of a layer.

    Raises:
        UserError: The rank is below 1.
    """
    if rank < 1:
        raise UserError(f"rank: must be 1 or more, is {rank}")
    for name in list(layers):
        parent, _, last = name.rpartition(".")
        owner = network.get_submodule(parent)
        layer: Layer = getattr(owner, last)  # also by number, of an nn.Sequential
        setattr(owner, last, LoRALayer(layer, rank, adapter_of(name)))


@contextmanager
def without_lora(network: nn.Module) -> Iterator[None]:
    """Make a network what it was before :func:`add_lora`, for as long as the context lasts."""
    layers = [module for module in network.modules() if isinstance(module, LoRALayer)]
    for layer in layers:
        layer.active = False
    try:
        yield
    finally:
        for layer in layers:
            layer.active = True


def layers_with_lora(network: nn.Module) -> list[str]:
    """Return the names of the layers that :func:`add_lora` replaced."""
    return [name for name, module in network.named_modules() if isinstance(module, LoRALayer)]


def _factors(layer: Layer, rank: int) -> tuple[Layer, Layer]:
    """Return the layers A and B, without biases."""
    if isinstance(layer, nn.Linear):
        return (
            nn.Linear(layer.in_features, rank, bias=False),
            nn.Linear(rank, layer.out_features, bias=False),
        )
    down = nn.Conv2d(
        layer.in_channels,
        rank,
        layer.kernel_size,  # type: ignore[arg-type]
        layer.stride,  # type: ignore[arg-type]
        layer.padding,  # type: ignore[arg-type]
        bias=False,
    )
    return down, nn.Conv2d(rank, layer.out_channels, 1, bias=False)
