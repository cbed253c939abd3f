"""Estimate how much memory a network needs for an image, without running it."""

import math
import weakref
from collections.abc import Iterable
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from cir_arch.facts import NetworkFacts

CPU_BUDGET = 1280 * 2**20
"""Bytes for an image or tile on a CPU, where other programs need memory too."""

_SMALL = 10_000_000
"""Networks with fewer parameters are counted on a real image: for tensors without data, PyTorch
imports its compiler, which takes a second and 0.15 GB."""

_SHARE_OF_FREE = 0.7
"""Of a GPU's memory; the rest is for scratch memory of libraries and fragmentation."""

_SHARE_OF_MAIN = 0.45
"""Of the main memory; convolutions on CPUs take much scratch memory, so that CODiff needs 1.5 times
the estimate (benchmarks/codiff.py)."""

_MEMORY = Path("/proc/meminfo")

_CONTROL_GROUPS = (
    (Path("/sys/fs/cgroup"), "memory.max", "memory.current"),
    (Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes", "memory.usage_in_bytes"),
)
"""Where Linux keeps the limits of containers, in version 2 and 1, and what they use."""


class _LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of all storages that operations allocate, until they are freed.

    Args:
        held: Tensors that exist already; views of them allocate nothing.
    """

    def __init__(self, held: Iterable[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live = 0
        self.peak = 0
        self._seen = {tensor.untyped_storage()._cdata for tensor in held}

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
    """Return the peak memory of a float32 forward pass in bytes per input pixel.

    A large network is counted on tensors without data, which takes neither time nor memory;
    attention that torch fuses then counts with its matrices, so this is an upper bound. Scratch
    memory inside one operation is not counted.

    Example:
        >>> from cir_arch import load_network
        >>> from cir_arch.running import facts_of
        >>> from cir_model.restoring.memory import bytes_per_pixel
        >>> from cir_weights import default_weights
        >>> network = load_network(default_weights())
        >>> 100 < bytes_per_pixel(network, facts_of(network)) < 5000
        True
    """
    size = 2 * facts.size_multiple
    size *= -(-128 // size)
    shape = (1, facts.in_channels, size, size)
    state = dict(chain(network.named_parameters(), network.named_buffers()))
    if sum(tensor.numel() for tensor in state.values()) < _SMALL:
        first = next(iter(state.values()), torch.empty(0))
        image = torch.zeros(shape, device=first.device)
        with torch.no_grad(), _LiveBytes(state.values()) as count:
            network(image)
        return float(count.peak / size**2)
    bare = {name: tensor.detach().to("meta") for name, tensor in state.items()}
    with torch.no_grad(), _LiveBytes(bare.values()) as count:
        functional_call(network, bare, (torch.empty(shape, device="meta"),))
    return float(count.peak / size**2)


def budget(device: torch.device, all_free: bool = False) -> float:
    """Return how many bytes a forward pass may use on a device now.

    Args:
        device: If it is no GPU, a fixed number of bytes, since tiles take less and are as fast.
        all_free: Take all that is free there, too, since tiles would change the image.
    """
    if device.type != "cuda":
        return _SHARE_OF_MAIN * _free_memory() if all_free else CPU_BUDGET
    free, _ = torch.cuda.mem_get_info(device)
    cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return _SHARE_OF_FREE * (free + cached)


def _free_memory() -> float:
    """Return how many bytes programs can still get; where the system does not say, a guess."""
    try:
        free = 1024.0 * _entry(_MEMORY, "MemAvailable:")
    except (OSError, ValueError):  # not Linux
        return 4.0 * CPU_BUDGET
    return min(free, _left_in_container())


def _left_in_container() -> float:
    """Return how many bytes the limit of a container leaves, where there is one."""
    for folder, limit, used in _CONTROL_GROUPS:
        with suppress(OSError, ValueError):  # ValueError: no number but "max"
            left = int((folder / limit).read_text()) - int((folder / used).read_text())
            return left + _entry(folder / "memory.stat", "inactive_file")  # read again if needed
    return math.inf


def _entry(path: Path, name: str) -> int:
    """Return the number beside a name."""
    lines = (line.split() for line in path.read_text(encoding="ascii").splitlines())
    (value,) = (words[1] for words in lines if words[0] == name)
    return int(value)
