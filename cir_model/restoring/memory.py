"""How much memory a network takes for an image, known before it is run."""

import weakref
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from cir_arch.facts import NetworkFacts

CPU_BUDGET = 1280 * 2**20
"""Bytes that an image or tile may take on a CPU, where what is free is not ours alone."""

_SHARE_OF_FREE = 0.7
"""Of a GPU's memory; the rest is for libraries' scratch memory and fragmentation."""


class _LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Follows the storages that operations make, until the last tensor on them is gone."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live = 0
        self.peak = 0
        self._seen: set[int] = set()

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Keep torch from importing its compiler, which takes a second to load."""
        return False

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        out = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor):
                self._follow(tensor.untyped_storage())
        return out

    def _follow(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key in self._seen:
            return
        self._seen.add(key)
        size = storage.nbytes()
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._forget, key, size)

    def _forget(self, key: int, size: int) -> None:
        self._seen.discard(key)
        self.live -= size


def bytes_per_pixel(network: nn.Module, facts: NetworkFacts) -> float:
    """Return the peak of what a float32 pass allocates, for a pixel of the input.

    Counted on tensors without data, so that it costs neither the pass nor its memory. An attention
    that torch fuses is counted with its matrices, which makes this an upper bound; what libraries
    take inside one operation is not counted.
    """
    size = 2 * facts.size_multiple
    size *= -(-128 // size)
    state = dict(chain(network.named_parameters(), network.named_buffers()))
    bare = {name: tensor.detach().to("meta") for name, tensor in state.items()}
    image = torch.empty(1, facts.in_channels, size, size, device="meta")
    with torch.no_grad(), _LiveBytes() as count:
        functional_call(network, bare, (image,))
    return float(count.peak / size**2)


def budget(device: torch.device) -> float:
    """Return the bytes that a pass may take on a device now."""
    if device.type != "cuda":
        return CPU_BUDGET
    free, _ = torch.cuda.mem_get_info(device)
    cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return _SHARE_OF_FREE * (free + cached)
