"""Inference: how an image passes through networks, in validation and restoration alike."""

import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import compress
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn

from cir_arch.facts import InputKind, Precision
from cir_arch.running import facts_of, run
from cir_data.images.jpeglib_files import require_jpeglib
from cir_host.errors import UserError
from cir_model.restoring import block_grid, ntire2024
from cir_model.restoring.averaging import Mean, describe_weights, relative_weights
from cir_model.restoring.settings import InferenceOptions
from cir_model.restoring.symmetry import SYMMETRIES
from cir_model.restoring.tile_plan import UNKNOWN, Plan, TilePlanner
from cir_model.restoring.tiling import Run, Tiling

AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}
"""The dtype of each mixed precision."""

_logger = logging.getLogger("basicsr")

Watch: TypeAlias = Callable[[float], None]
"""Gets the finished share of an image, 0 to 1, before each pass and after the last one.

It starts anew at 0 if memory runs out. An exception that it raises ends the restoration.
"""


class Restorer:
    """Runs a network on images of any size, or several networks whose outputs it averages.

    Args:
        networks: In evaluation mode, on the same device, with the same scale and channels.
        options: Tiles, self-ensemble and precision.
        names: Of the networks, for messages; default: their classes.
        weights: Of the networks in the average, relative to each other, from 0; default: equal
            weights. A network of weight 0 is left out.

    Raises:
        UserError: The networks differ in scale, channels or kind of input, or do not support the
            precision or another option; or the weights are not as stated, or all 0.

    Example:
        >>> import torch
        >>> from cir_arch import load_network
        >>> from cir_model.restoring.inference import Restorer
        >>> from cir_model.restoring.settings import InferenceOptions
        >>> from cir_weights import default_weights
        >>> network = load_network(default_weights())
        >>> restorer = Restorer([network], InferenceOptions(tile=64, overlap=16))
        >>> restorer(torch.rand(1, 3, 96, 64)).shape
        torch.Size([1, 3, 96, 64])
        >>> restorer.describe()["precision"]
        'fp32'
    """

    def __init__(
        self,
        networks: Sequence[nn.Module],
        options: InferenceOptions,
        names: Sequence[str] | None = None,
        weights: Sequence[float] | None = None,
    ) -> None:
        try:
            relative = relative_weights(weights, len(networks))
        except ValueError as error:
            raise UserError(f"weights: {error}") from error
        names = names or [type(network).__name__ for network in networks]
        self.networks = list(compress(networks, relative))
        self.names = list(compress(names, relative))
        self.weights = list(filter(None, relative))
        self.options = options
        self.facts = [facts_of(network) or UNKNOWN for network in self.networks]
        for name, facts in zip(self.names, self.facts, strict=True):
            if facts is UNKNOWN and options.tile:
                raise UserError(f"tile: {name} does not state its facts, so it takes whole images")
        self.device = _device_of(self.networks[0])
        self.scale: int = self._shared("scale")
        self.channels: int = self._shared("in_channels")
        self.input_kind: InputKind = self._shared("input_kind")
        if self.input_kind == "coefficients":
            self._check_coefficients()
        self.whole_images = any(facts.whole_images for facts in self.facts)
        if self.whole_images and options.tiling == "ntire2024":
            raise UserError(
                f"tiling: ntire2024 cuts images into tiles, and {' or '.join(self.names)} takes"
                " whole images; give blended"
            )
        self.extra_inputs = {name for facts in self.facts for name in facts.extra_inputs}
        self.precision = self._precision(options.precision)
        self.redone = 0
        """How many passes were redone in float32."""
        self.moved = 0
        """How many images were extended, since their blocks began elsewhere than at the corner."""
        self.watch: Watch | None = None
        self._planner = TilePlanner(self.networks, self.facts, options, self.device)

    @torch.inference_mode()
    def __call__(
        self, image: Tensor, block_offset: block_grid.Blocks = "search", **inputs: Any
    ) -> Tensor:
        """Restore images.

        Args:
            image: (B, C, H, W) in [0, 1], on any device; for networks that take coefficients, the
                planes of a JPEG, see :func:`cir_data.images.jpeg_planes.read_planes`.
            block_offset: Row and column where the JPEG blocks begin; ``search``: found from the
                pixels; None: there are no blocks.
            inputs: Further inputs of the networks, such as FBCNN's ``quality``.

        Returns:
            (B, C, scale H, scale W), float32, not clamped, on the device of ``image``.

        Raises:
            UserError: The output of a network is not finite, or the smallest tile does not fit into
                memory.
        """
        as_given = self.options.grid == "none" or self.options.tiling == "ntire2024"
        # coefficients begin with a block
        if as_given or self.whole_images or self.input_kind == "coefficients":
            return self._restore(image, inputs)
        if isinstance(block_offset, str):
            block_offset = block_grid.block_offset(image)
        if block_offset is None:
            return self._restore(image, inputs)
        self.moved += len(image) if any(block_offset) else 0
        flipped = self.options.self_ensemble != "none"
        height, width = image.shape[-2:]
        frame = block_grid.Frame.fitting(height, width, block_offset, flipped=flipped)
        return frame.cut(self._restore(frame.extend(image), inputs), self.scale)

    def _restore(self, image: Tensor, inputs: Mapping[str, Any]) -> Tensor:
        while True:
            plan = self.plan(*image.shape[-2:])
            try:
                return self._average(image, plan, inputs)
            except (RuntimeError, MemoryError) as error:
                if not _is_out_of_memory(error):
                    raise
            self._planner.halve(plan, *image.shape[-2:])  # out here no frame holds tensors

    def compile(self, **arguments: Any) -> None:
        """Compile the networks in place; takes the arguments of ``torch.compile``."""
        self._planner.estimate()  # before compiling: this pass has tensors without data
        for network in self.networks:
            network.compile(**arguments)

    def plan(self, height: int, width: int) -> Plan:
        """Return the tilings for an image of this size, one for each tile size that differs."""
        return self._planner.plan(height, width)

    def describe(self) -> dict[str, str]:
        """Return the settings for results files; tiles are those of the images so far."""
        described = {
            "inference": self._planner.describe(),
            "self-ensemble": self.options.self_ensemble,
            "precision": self.precision,
        }
        if len(self.networks) > 1:
            described["networks averaged"] = describe_weights(self.weights)
        if self.moved:
            described["block grid"] = f"not at the corner in {self.moved} images, moved there"
        if self.redone:
            described["passes redone in fp32"] = str(self.redone)
        return described

    def _average(self, image: Tensor, plan: Plan, inputs: Mapping[str, Any]) -> Tensor:
        mean = Mean()
        symmetries = SYMMETRIES[self.options.self_ensemble]
        passes = len(self.weights) * len(plan) * len(symmetries)
        done = 0
        for index, weight in enumerate(self.weights):
            for tiling, count in plan.items():
                runner = self._runner(index, self._inputs_of(index, image, tiling, inputs))
                for apply, undo in symmetries:
                    watched = self._watched(runner, image, tiling, done, passes)
                    output = undo(self._pass(index, watched, apply(image), tiling))
                    mean.add(output, weight * count)
                    done += 1
        if self.watch is not None:
            self.watch(1.0)
        return mean.result()

    def _watched(
        self, runner: Run, image: Tensor, tiling: Tiling | None, done: int, passes: int
    ) -> Run:
        """Tell ``watch`` the finished share before each tile; ``done`` passes are finished."""
        if (watch := self.watch) is None:
            return runner
        tiles = 1 if tiling is None else tiling.count(*image.shape[-2:])
        seen = 0

        def run_watched(batch: Tensor) -> Tensor:
            nonlocal seen
            watch((done + min(seen / tiles, 1)) / passes)  # the winner's rule has more tiles
            seen += len(batch) // len(image)
            return runner(batch)

        return run_watched

    def _pass(self, index: int, runner: Run, image: Tensor, tiling: Tiling | None) -> Tensor:
        if self.options.tiling == "ntire2024":
            multiple = math.lcm(*(facts.size_multiple for facts in self.facts))
            return ntire2024.restore(runner, image, tiling, multiple, self.scale)
        if tiling is None or self.facts[index].whole_images:
            return runner(image).to(image.device)
        # several images may have different inputs, so their tiles pass one position at a time
        batch = self._planner.batch(tiling) if len(image) == 1 else 1
        return tiling.restore(runner, image, self.scale, batch)

    def _inputs_of(
        self, index: int, image: Tensor, tiling: Tiling | None, inputs: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Return the further inputs of a network.

        A network that predicts the quality would do so for each tile; instead, all tiles of a
        size get the prediction for the middle one. A network that takes whole images tiles its own
        work.
        """
        network, facts = self.networks[index], self.facts[index]
        own = {name: value for name, value in inputs.items() if name in facts.extra_inputs}
        predicts = "quality" in facts.extra_inputs and "quality" in facts.extra_outputs
        if predicts and tiling is not None and own.get("quality") is None:
            middle = tiling.middle(image).to(self.device)
            _, own["quality"] = run(network, middle, return_quality=True)
        if facts.whole_images and tiling is not None:
            own.update(tile=tiling.tile, overlap=tiling.overlap)
        return own

    def _runner(self, index: int, own: Mapping[str, Any]) -> Run:
        network = self.networks[index]
        fast = self.facts[index].channels_last and self.device.type == "cpu"
        layout = torch.channels_last if fast else torch.preserve_format

        def checked(image: Tensor) -> Tensor:
            image = image.to(self.device, memory_format=layout)
            with _autocast(self.device, self.precision):
                output: Tensor = run(network, image, **own).float()
            if output.isfinite().all():
                return output
            if self.precision != "fp32":
                self.redone += 1
                if self.redone == 1:
                    _logger.warning("%s: not finite; redone in fp32.", self.precision)
                output = run(network, image, **own).float()
                if output.isfinite().all():
                    return output
            raise UserError(
                f"{self.names[index]}: the output is not finite, not even in fp32; the weights"
                " are damaged or belong to another network"
            )

        return checked

    def _check_coefficients(self) -> None:
        """Refuse what can be done with pixels only.

        Raises:
            UserError: The options ask for it, or coefficients cannot be read.
        """
        for key, value, usual in (
            ("self_ensemble", self.options.self_ensemble, "none"),
            ("tiling", self.options.tiling, "blended"),
        ):
            if value != usual:
                raise UserError(
                    f"{key}: {value} needs a network that takes pixels; {self.names[0]} takes the"
                    f" DCT coefficients of JPEGs: give {usual}"
                )
        require_jpeglib()

    def _shared(self, fact: str) -> Any:
        values = [getattr(facts, fact) for facts in self.facts]
        if len(set(values)) > 1:
            each = ", ".join(f"{n}: {v}" for n, v in zip(self.names, values, strict=True))
            raise UserError(
                f"these networks cannot be averaged: their {fact.replace('_', ' ')} differs"
                f" ({each})"
            )
        return values[0]

    def _precision(self, wanted: Literal["auto"] | Precision) -> Precision:
        if wanted == "auto":
            fast, *others = {facts.fast_precision for facts in self.facts}
            everywhere = not others and all(fast in facts.precisions for facts in self.facts)
            return fast if everywhere and _is_fast(fast, self.device) else "fp32"
        if wanted == "fp16" and self.device.type == "cpu":
            raise UserError("precision: fp16 needs a GPU; use bf16 or fp32 on a CPU")
        for name, facts in zip(self.names, self.facts, strict=True):
            if wanted not in facts.precisions:
                supported = " and ".join(sorted(facts.precisions))
                raise UserError(f"precision: {name} supports {supported}, not {wanted}")
        return wanted


def restore_tensor(network: nn.Module, image: Tensor, **options: Any) -> Tensor:
    """Restore images by a network; a shortcut for a single call of :class:`Restorer`.

    Args:
        network: On any device, in evaluation mode.
        image: (B, C, H, W) in [0, 1].
        options: Fields of :class:`InferenceOptions`.

    Returns:
        (B, C, scale H, scale W), float32, not clamped.

    Raises:
        UserError: See :class:`Restorer`.

    Example:
        >>> import torch
        >>> from cir_arch import load_network
        >>> from cir_model.restoring.inference import restore_tensor
        >>> from cir_weights import default_weights
        >>> network = load_network(default_weights())
        >>> restore_tensor(network, torch.rand(1, 3, 48, 64), self_ensemble="flips").shape
        torch.Size([1, 3, 48, 64])
    """
    return Restorer([network], InferenceOptions(**options))(image)


def _device_of(network: nn.Module) -> torch.device:
    return next((p.device for p in network.parameters()), torch.device("cpu"))


@contextmanager
def _autocast(device: torch.device, precision: Precision) -> Iterator[None]:
    dtype = AUTOCAST.get(precision)
    with torch.autocast(device.type, dtype, enabled=dtype is not None):
        yield


def _is_fast(precision: Precision, device: torch.device) -> bool:
    """Return whether a device has instructions of a precision; without them, float32 is faster."""
    if precision != "bf16":
        return device.type == "cuda"
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type != "cpu":
        return False
    checks: list[Callable[[], bool] | None] = [
        getattr(torch.cpu, name, None)
        for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    ]
    return any(bool(check()) for check in checks if check is not None)


def _is_out_of_memory(error: Exception) -> bool:
    """Return whether memory ran out; on a CPU only the message says so."""
    known = isinstance(error, (torch.OutOfMemoryError, MemoryError))
    return known or "can't allocate memory" in str(error) or "not enough memory" in str(error)
