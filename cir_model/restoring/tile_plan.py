"""Plans of tiles: whether an image passes whole, and otherwise in which tiles, so that it fits."""

import logging
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Literal, TypeAlias

import torch
from torch import nn

from cir_arch.facts import NetworkFacts
from cir_host.errors import UserError
from cir_model.restoring import memory
from cir_model.restoring.settings import InferenceOptions
from cir_model.restoring.tiling import Tiling, grid_of

UNKNOWN = NetworkFacts(
    size_multiple=1,
    min_size=1,
    scale=1,
    halo=None,
    in_channels=3,
    precisions=frozenset({"fp32", "bf16", "fp16"}),
)
"""For a network that states no facts: it gets only whole images."""

_SURELY_FITS = 128 * 128
"""Images of up to this many pixels fit into memory; the estimate would take a second."""

_CPU_WHOLE = 768
"""Edge of the largest square that passes whole on a CPU; tiles are as fast and take less memory."""

_CPU_TILE = 576
"""The largest automatic tile on a CPU, with which 12 megapixels take 1.3 GB."""

_MOST_TILES = 16
"""The largest batch of tiles on a GPU; more is not faster."""

_logger = logging.getLogger("basicsr")

Plan: TypeAlias = Mapping[Tiling | None, int]
"""Tilings in which an image passes (None: whole), and how often each counts in the mean."""


class TilePlanner:
    """Plans the tiles of images from the memory that networks need, and from where it ran out.

    Args:
        networks: All on one device; an image passes through one after the other.
        facts: Of each network.
        options: Tiles, overlap and the rule of tiling.
        device: Of the networks.
    """

    def __init__(
        self,
        networks: Sequence[nn.Module],
        facts: Sequence[NetworkFacts],
        options: InferenceOptions,
        device: torch.device,
    ) -> None:
        self.networks = networks
        self.facts = facts
        self.options = options
        self.device = device
        self._whole_images = any(fact.whole_images for fact in facts)
        self._cost: float | None = None
        self._limit: int | None = None
        """The largest tile that may still fit, after memory ran out."""
        self._plans: dict[tuple[int, int], Plan] = {}
        self._logged: set[Tiling] = set()

    def plan(self, height: int, width: int) -> Plan:
        """Return the tilings for an image of this size, one for each tile size that differs."""
        if (height, width) not in self._plans:
            tile = self.options.tile
            sizes = (tile,) if tile is None or isinstance(tile, (int, str)) else tile
            counts = Counter(self._tiling(size, height, width) for size in sizes)
            common = math.gcd(*counts.values())  # the mean of equal results is one of them
            self._plans[height, width] = {way: count // common for way, count in counts.items()}
        return self._plans[height, width]

    def describe(self) -> str:
        """Return in which tiles the images so far have passed."""
        ways = {_describe(self.options.tiling, plan) for plan in self._plans.values()}
        return " or ".join(sorted(ways)) or "whole images"

    def estimate(self) -> None:
        """Estimate now how much memory the networks need, if plans depend on it."""
        if self.options.tile == "auto":
            self._cost_of(1)

    def batch(self, tiling: Tiling) -> int:
        """Return how many tiles should pass at once."""
        if self.device.type == "cpu":
            return 1  # one tile keeps all cores busy
        return int(min(_MOST_TILES, max(1, self._budget() // self._cost_of(tiling.tile**2))))

    def halve(self, plan: Plan, height: int, width: int) -> None:
        """Halve the largest tile after memory ran out.

        Args:
            plan: By which it ran out.
            height: Of the image.
            width: Of the image.

        Raises:
            UserError: There is no smaller tile.
        """
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        if UNKNOWN in self.facts:
            raise UserError(f"out of memory at {height} x {width} pixels; use another device")
        failed = max(max(height, width) if way is None else way.tile for way in plan)
        half = max(failed // 2, 2 * grid_of(self.facts))
        smaller = Tiling.fitting(half, self.options.overlap, self.facts).tile
        if smaller >= failed:
            raise UserError(
                f"out of memory at {failed} x {failed} pixels, which is the smallest tile;"
                " use a smaller network or another --device"
            )
        self._limit = smaller
        self._plans.clear()
        _logger.warning(
            "Out of memory at %d x %d pixels; restarting the image in tiles of %d.",
            min(failed, height),
            min(failed, width),
            smaller,
        )

    def _tiling(self, tile: int | Literal["auto"] | None, height: int, width: int) -> Tiling | None:
        if tile == "auto":
            tile = None if self._fits(height * width) else self._largest()
        if self._limit is not None:
            tile = min(tile or self._limit, self._limit)
        if not tile:
            return None
        tiling = Tiling.fitting(tile, self.options.overlap, self.facts)
        if self.options.tiling == "blended" and tiling.covers(height, width):
            return None
        if tiling not in self._logged:
            self._logged.add(tiling)
            _logger.info("%s.", _describe_tiling(self.options.tiling, tiling).capitalize())
        return tiling

    def _fits(self, pixels: int) -> bool:
        return pixels <= _SURELY_FITS or pixels <= self._most_pixels(_CPU_WHOLE)

    def _largest(self) -> int:
        """Return the largest multiple of the grid whose tile fits into memory."""
        grid = grid_of(self.facts)
        return max(grid, int(math.sqrt(self._most_pixels(_CPU_TILE))) // grid * grid)

    def _most_pixels(self, side: int) -> float:
        """Return how many pixels may pass at once, on a CPU no more than those of a square."""
        fitting = self._budget() / self._cost_of(1)
        limited = self.device.type == "cpu" and not self._whole_images
        return min(fitting, side**2) if limited else fitting

    def _cost_of(self, pixels: int) -> float:
        if self._cost is None:
            pairs = zip(self.networks, self.facts, strict=True)
            self._cost = max(memory.bytes_per_pixel(network, facts) for network, facts in pairs)
        return max(self._cost, 1) * pixels

    def _budget(self) -> float:
        return memory.budget(self.device, all_free=self._whole_images)


def _describe(rule: str, plan: Plan) -> str:
    ways = [
        f"{count} x {way}" if count > 1 else way
        for way, count in ((_describe_tiling(rule, tiling), n) for tiling, n in plan.items())
    ]
    return ways[0] if len(ways) == 1 else f"mean of {'; '.join(ways)}"


def _describe_tiling(rule: str, tiling: Tiling | None) -> str:
    if rule == "ntire2024":
        sizes = "" if tiling is None else f", tiles of {tiling.tile} px, stride {tiling.stride}"
        return f"padded and averaged by the rule of the NTIRE 2024 winner{sizes}"
    if tiling is None:
        return "whole images"
    return (
        f"tiles of {tiling.tile} px, stride {tiling.stride} (multiples of {tiling.grid}),"
        f" blended over {tiling.overlap - 2 * tiling.margin} px"
    )
