"""LoRA: low-rank changes of the weights of linear and convolutional layers.

Hu et al., LoRA: Low-Rank Adaptation of Large Language Models, ICLR 2022,
https://arxiv.org/abs/2106.09685. Names and scale are those of CODiff's checkpoints.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cir_host.checkpoint_files import some_of
from cir_host.errors import UserError

ALPHA = 8
"""The change is scaled by this over the rank. Files do not store it: it is the default of the
library that trained CODiff."""

_ENTRY = re.compile(r"(?P<layer>.+)\.lora_(?P<factor>[AB])\.(?P<adapter>\w+)\.weight")


@dataclass(frozen=True)
class LowRank:
    """The change of one layer's weight, as two factors."""

    down: Tensor
    """A: (r, in) of a linear layer, (r, in, k, k) of a convolution."""
    up: Tensor
    """B: (out, r) or (out, r, 1, 1)."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the weight that it changes."""
        return (len(self.up), *self.down.shape[1:])

    @property
    def rank(self) -> int:
        """Inner dimension of the factors."""
        return len(self.down)

    def change(self) -> Tensor:
        """Return what is added to the weight, in float32."""
        up, down = self.up.float().flatten(1), self.down.float().flatten(1)
        return (ALPHA / self.rank * (up @ down)).reshape(self.shape)


def low_rank_changes(state: Mapping[str, Tensor], source: str) -> dict[str, LowRank]:
    """Read the changes of all layers off a state dict; other entries are left out.

    The names of adapters do not matter, since all of them are active.

    Args:
        state: Entries ``LAYER.lora_A.ADAPTER.weight`` and ``LAYER.lora_B.ADAPTER.weight``.
        source: The file's name for messages.

    Raises:
        UserError: A factor is missing or has another rank than the other one.
    """
    factors: dict[str, dict[str, Tensor]] = {}
    for name, value in state.items():
        if (entry := _ENTRY.fullmatch(name)) is not None:
            factors.setdefault(entry["layer"], {})[entry["factor"]] = value
    changes = {}
    for layer, pair in factors.items():
        if pair.keys() != {"A", "B"}:
            raise UserError(f"{source}: {layer} in it has only one of lora_A and lora_B")
        if pair["B"].flatten(1).shape[1] != len(pair["A"]):
            raise UserError(f"{source}: lora_A and lora_B of {layer} in it differ in rank")
        changes[layer] = LowRank(pair["A"], pair["B"])
    return changes


def layers_of_unet(unet: nn.Module) -> Iterator[str]:
    """Yield the names of a UNet's layers that CODiff changes: all but those of the time."""
    for name in linear_and_convolutional(unet):
        if not name.startswith("time_embedding.") and not name.endswith(".time_emb_proj"):
            yield name


def layers_of_vae(vae: nn.Module) -> Iterator[str]:
    """Yield the names of a VAE's layers that CODiff changes: those of the encoder."""
    for name in linear_and_convolutional(vae):
        if name.startswith("encoder.") or name == "quant_conv":
            yield name


def linear_and_convolutional(network: nn.Module) -> Iterator[str]:
    """Yield the names of the layers that can have a low-rank change."""
    for name, module in network.named_modules():
        if isinstance(module, (nn.Linear, nn.Conv2d)):
            yield name


@torch.no_grad()
def merge(network: nn.Module, changes: Mapping[str, LowRank], source: str) -> None:
    """Add changes to the weights of a network, in place.

    Args:
        network: The network.
        changes: By the names of its layers.
        source: The name of their file, for messages.

    Raises:
        UserError: The network has no such layer, or it has another shape.
    """
    layers = dict(network.named_modules())
    kind = type(network).__name__
    if strangers := changes.keys() - layers.keys():
        raise UserError(f"{source}: {kind} has no {some_of(sorted(strangers))}; give another base")
    for name, change in changes.items():
        weight = layers[name].get_parameter("weight")
        if weight.shape != change.shape:
            raise UserError(
                f"{source}: {name} is {_times(change.shape)} in it and {_times(weight.shape)} in"
                f" the base's {kind}; give the base that it was trained on"
            )
        weight.add_(change.change())


def _times(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))
