"""``CIRModel``: trains and tests one network on compressed images."""

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from copy import deepcopy
from typing import Any, ClassVar

import torch
from basicsr.utils import get_root_logger
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import clip_grad_norm_

from cir_host.distributed import connected
from cir_host.errors import UserError
from cir_host.registration import register
from cir_host.sampler import Stage
from cir_host.typed_options import typed
from cir_model.losses.building import Losses, check_losses
from cir_model.measuring.checks import (
    check_codec_input,
    check_coefficients,
    check_images,
    check_metrics,
    check_precision,
)
from cir_model.measuring.samples import codec_of
from cir_model.measuring.validation import MeasuringModel
from cir_model.options import LoggerOptions, TrainOptions, ValOptions
from cir_model.restoring.inference import AUTOCAST
from cir_model.training.groups import freeze, parameter_groups
from cir_model.training.running_statistics import RunningStatistics
from cir_model.training.steps_on_device import StepsOnDevice

_FUSED = ("Adam", "AdamW", "SGD")
"""Optimizers that torch has as one kernel for all parameters."""


@register("model")
class CIRModel(MeasuringModel):
    """Trains and tests one network, ``net_g``, with any combination of losses.

    Its options are :class:`TrainOptions`, :class:`ValOptions` and :class:`LoggerOptions`.
    """

    train_options_type: ClassVar[type[TrainOptions]] = TrainOptions
    options_types: ClassVar = {"train": TrainOptions, "val": ValOptions, "logger": LoggerOptions}

    def __init__(self, opt: dict[str, Any]) -> None:
        if opt["is_train"]:
            self.options = self.train_options(opt)
        super().__init__(opt)

    @classmethod
    def train_options(cls, opt: Mapping[str, Any]) -> TrainOptions:
        """Return the checked section ``train``."""
        return typed(opt["train"], cls.train_options_type, "train")

    @classmethod
    def training_stages(cls, opt: Mapping[str, Any], batch_size: int) -> tuple[Stage, ...]:
        """Return the batch size and crop size of each part of the training.

        Args:
            opt: All options.
            batch_size: ``batch_size_per_gpu``, summed over all processes and GPUs.
        """
        options = cls.train_options(opt)
        devices = batch_size // opt["datasets"]["train"]["batch_size_per_gpu"]
        if not options.progressive:
            return (Stage(int(options.total_iter), batch_size * options.accum_iter),)
        stages, last = [], 0
        for stage in options.progressive:
            last += int(stage.iters)
            batch = stage.batch_size_per_gpu * devices * options.accum_iter
            stages.append(Stage(last, batch, stage.gt_size))
        return tuple(stages)

    def rehearse(self, network: nn.Module) -> None:
        """Check the options against a network on the meta device.

        Raises:
            OptionsError: A pattern of ``train.groups`` matches no parameter, all parameters are
                frozen, the network does not support the precision of ``train.amp``, takes no codec
                or other images than the data set gives, a loss refuses its arguments, or a metric
                cannot be computed.
        """
        options = self.train_options(self.opt)
        check_losses(options)
        check_metrics(self.val_options(self.opt).metrics or {})
        if options.amp != "off":
            check_precision(network, options.amp, "train.amp")
        asked = {"train": options.tell_codec, "val": self.val_options(self.opt).tell_codec}
        for key in (key for key, wanted in asked.items() if wanted):
            check_codec_input(network, f"{key}.tell_codec")
        check_coefficients(network, self.opt["datasets"]["train"])
        check_images(network, self.opt)
        freeze(network, options.groups)
        parameter_groups(network, options)

    def model_to_device(self, net: nn.Module) -> nn.Module:
        """Freeze the parameters of ``net_g`` that the options name, then move the network."""
        if self.is_train:
            if net is self.net_g:
                freeze(net, self.options.groups)
            if self.options.channels_last:
                net = net.to(memory_format=torch.channels_last)
        moved: nn.Module = super().model_to_device(net)
        return moved

    def init_training_settings(self) -> None:
        """Set up losses, EMA weights, optimizer, learning-rate schedule and precision."""
        options = self.options
        if options.tf32 is not None:
            torch.backends.cuda.matmul.allow_tf32 = options.tf32
            torch.backends.cudnn.allow_tf32 = options.tf32
        self.net_g.train()
        self.ema_decay = options.ema_decay
        if self.ema_decay > 0:
            self._start_average()
        self.losses = Losses(options).to(self.device)
        self.setup_optimizers()
        self.setup_schedulers()
        self.trained = [p for p in self.net_g.parameters() if p.requires_grad]
        # a second handle, so that checkpoints and validation use the plain network
        self.network = torch.compile(self.net_g, dynamic=False) if options.compile else self.net_g
        self.autocast_type = AUTOCAST.get(options.amp)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=options.amp == "fp16")
        self.statistics = RunningStatistics(self.net_g)
        self.skipped = self.skipped_in_a_row = 0
        # on a GPU, reading a number waits for all work that is queued
        fused = all(o.defaults.get("fused") for o in self.optimizers)
        reads = self.scaler.is_enabled() or bool(self.statistics)
        self.steps_on_device = StepsOnDevice(self.device) if fused and not reads else None

    def setup_optimizers(self) -> None:
        """Build the optimizer for the groups of parameters."""
        arguments = dict(self.opt["train"]["optim_g"])
        groups = parameter_groups(self.get_bare_model(self.net_g), self.options)
        self.optimizer_g = self.get_optimizer(arguments.pop("type"), groups, **arguments)
        self.optimizers.append(self.optimizer_g)

    def get_optimizer(
        self, optim_type: str, params: Iterable[Any], lr: float, **kwargs: Any
    ) -> torch.optim.Optimizer:
        """Build one of torch's optimizers by name, fused where that is faster."""
        if self.device.type == "cuda" and optim_type in _FUSED and kwargs.get("foreach") is None:
            kwargs.setdefault("fused", True)
        optimizer: torch.optim.Optimizer = getattr(torch.optim, optim_type)(params, lr, **kwargs)
        return optimizer

    def feed_data(self, data: Mapping[str, Any]) -> None:
        """Move a batch to the device: ``lq`` and possibly ``gt``, (B, C, H, W) in [0, 1].

        Its other tensors, which have the batch on the first axis, become ``self.facts``.
        """
        self.lq: Tensor
        self.gt: Tensor
        super().feed_data(data)
        self.lq = _as_float(self.lq)
        if "gt" in data:
            self.gt = _as_float(self.gt)
        self.facts = {
            key: value.to(self.device, non_blocking=True)
            for key, value in data.items()
            if isinstance(value, Tensor) and key not in {"lq", "gt"}
        }
        if self.is_train and self.options.channels_last:
            self.lq = self.lq.contiguous(memory_format=torch.channels_last)

    def optimize_parameters(self, current_iter: int) -> None:
        """Take one optimizer step, with gradients accumulated over ``accum_iter`` batches.

        Raises:
            UserError: Losses or gradients were not finite in ``max_nonfinite`` steps in a row.
        """
        for optimizer in self.optimizers:
            optimizer.zero_grad()
        self.statistics.keep()
        losses = self.backward()
        for optimizer in self.optimizers:
            self.scaler.unscale_(optimizer)
        values = {**losses, **self.clip()}
        if self.steps_on_device is not None:
            taken = self.steps_on_device.take(self.optimizers, values)
            self._average(current_iter, taken)
            if self.steps_on_device.full:
                self._read_steps()
            return
        self.log_dict = _as_numbers(values)
        if all(map(_is_finite, self.log_dict.values())):
            for optimizer in self.optimizers:
                self.scaler.step(optimizer)
            self.skipped_in_a_row = 0
            self._average(current_iter)
        else:
            self.statistics.restore()
            self._count_skipped(current_iter)
        self.scaler.update()
        if self.skipped:
            self.log_dict["skipped"] = self.skipped

    def get_current_log(self) -> dict[str, float]:
        """Return losses and gradient norms of the last step, and how many steps were skipped."""
        self._read_steps()
        return self.log_dict

    def _read_steps(self) -> None:
        """Read the numbers of the steps that stayed on the device.

        Raises:
            UserError: Too many steps in a row were not finite.
        """
        if self.steps_on_device is None or not self.steps_on_device.waiting:
            return
        steps = self.steps_on_device.read()
        self.log_dict = steps.values
        self.skipped += steps.skipped
        self.skipped_in_a_row = steps.in_a_row
        if steps.skipped:
            get_root_logger().warning(
                f"{steps.skipped} of the last {steps.count} iterations are skipped: not finite."
            )
            self._check_skipped(steps.longest)
        if self.skipped:
            self.log_dict["skipped"] = self.skipped

    def _average(self, current_iter: int, taken: Tensor | None = None) -> None:
        """Update the EMA weights, unless ``taken`` says that the step was skipped."""
        if self.ema_decay > 0:
            warm = (1 + current_iter) / (10 + current_iter)
            decay = min(self.ema_decay, warm) if self.options.ema_warmup else self.ema_decay
            self.model_ema(decay if taken is None else torch.where(taken, decay, 1.0))

    def backward(self) -> dict[str, Tensor]:
        """Compute the gradients of the batch.

        Returns:
            Losses by name, each the mean over the batch and the processes.
        """
        batch = {"lq": self.lq, "gt": self.gt, **self.facts}
        return self.accumulate(
            self.net_g, lambda lq, gt, **facts: self.compute_losses(lq, gt, facts), batch
        )

    def accumulate(
        self,
        network: nn.Module,
        compute: Callable[..., dict[str, Tensor]],
        batch: Mapping[str, Tensor],
    ) -> dict[str, Tensor]:
        """Accumulate the gradients of all parts of a batch.

        Args:
            network: The network that is trained, possibly wrapped for several processes.
            compute: Takes the tensors of a part by name and returns its losses.
            batch: Tensors with the batch on the first axis.

        Returns:
            Losses by name, each the mean over the batch and the processes.
        """
        parts = self.options.accum_iter
        means: dict[str, Tensor] = {}
        chunks = [value.chunk(parts) for value in batch.values()]
        for i, values in enumerate(zip(*chunks, strict=True)):
            with _synchronised(network, i == parts - 1):
                losses = compute(**dict(zip(batch, values, strict=True)))
                loss = torch.stack(list(losses.values())).sum()
                torch.autograd.backward(self.scaler.scale(loss / parts))
            for name, value in losses.items():
                means[name] = means.get(name, torch.zeros_like(value)) + value.detach() / parts
        return _mean_over_processes(means)

    def clip(self) -> dict[str, Tensor]:
        """Clip the gradient to ``train.grad_clip``; returns its norm before, by name in the log."""
        return {"grad_norm": clip_grad_norm_(self.trained, self.options.grad_clip or float("inf"))}

    def compute_losses(
        self, lq: Tensor, gt: Tensor, facts: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """Restore a batch and return its losses; subclasses change the training here.

        Args:
            lq: (B, C, H, W) in [0, 1].
            gt: (B, C, scale H, scale W) in [0, 1].
            facts: The other tensors of the samples, such as ``quality`` (B,).

        Returns:
            Scalars by name in the log; the step minimises their sum.
        """
        losses: dict[str, Tensor] = self.losses(self.restored(lq, facts), gt, facts)
        return losses

    def restored(self, lq: Tensor, facts: Mapping[str, Tensor]) -> Tensor:
        """Run the network on a batch; returns images in float32, not clamped.

        The network gets ``coefficients`` instead of ``lq`` if the data set gives them.
        """
        told = {"codec": codec_of(facts, "train.tell_codec")} if self.options.tell_codec else {}
        with self.autocast():
            output: Tensor = self.network(facts.get("coefficients", lq), **told)
        return output.float()

    def autocast(self) -> torch.autocast:
        """Return the autocast context of ``train.amp``."""
        kind = self.autocast_type
        return torch.autocast(self.device.type, kind, kind is not None)

    def state_of_training(self) -> dict[str, Any]:
        """Return our part of the training state: gradient scaler, counters, best score."""
        self._read_steps()
        return {
            "scaler": self.scaler.state_dict(),
            "skipped": self.skipped,
            "skipped_in_a_row": self.skipped_in_a_row,
            "best_mean": self.best_mean,
        }

    def resume_state_of_training(self, state: Mapping[str, Any]) -> None:
        """Restore :meth:`state_of_training`; states of older versions lack some entries."""
        if self.scaler.is_enabled() and state.get("scaler"):
            self.scaler.load_state_dict(state["scaler"])
        self.skipped = state.get("skipped", 0)
        self.skipped_in_a_row = state.get("skipped_in_a_row", 0)
        self.best_mean = state.get("best_mean")

    def _start_average(self) -> None:
        """Start the EMA weights from those of the checkpoint, or from the network itself."""
        self.net_g_ema = deepcopy(self.get_bare_model(self.net_g)).requires_grad_(False).eval()
        paths = self.opt["path"]
        if (path := paths.get("pretrain_network_g")) is not None:
            strict = paths.get("strict_load_g", True)
            self.load_network(self.net_g_ema, path, strict, "params_ema")

    def _count_skipped(self, current_iter: int) -> None:
        self.skipped += 1
        self.skipped_in_a_row += 1
        values = ", ".join(f"{k}: {v:g}" for k, v in self.log_dict.items())
        get_root_logger().warning(f"Iteration {current_iter} is skipped: not finite ({values}).")
        self._check_skipped(self.skipped_in_a_row, f", up to iteration {current_iter} ({values})")

    def _check_skipped(self, in_a_row: int, where: str = "") -> None:
        if in_a_row >= self.options.max_nonfinite:
            raise UserError(
                f"losses or gradients were not finite in {in_a_row} steps in a row{where}; lower"
                " train.optim_g.lr, set train.grad_clip, or set train.amp to bf16 or off, then"
                " resume"
            )


def _as_float(images: Tensor) -> Tensor:
    """Return images in [0, 1]; a data set with ``uint8`` gives 0 to 255."""
    return images.float().div_(255) if images.dtype == torch.uint8 else images


def _synchronised(network: nn.Module, synchronised: bool) -> AbstractContextManager[None]:
    """Return a context in which processes exchange gradients, or not until the last part."""
    if synchronised or not isinstance(network, DistributedDataParallel):
        return nullcontext()
    without: AbstractContextManager[None] = network.no_sync()
    return without


def _is_finite(value: float) -> bool:
    return abs(value) < float("inf")  # false for NaN too


def _as_numbers(values: Mapping[str, Tensor]) -> dict[str, float]:
    """Move all values from the device at once."""
    numbers = torch.stack([value.float() for value in values.values()]).tolist()
    return dict(zip(values, numbers, strict=True))


def _mean_over_processes(values: dict[str, Tensor]) -> dict[str, Tensor]:
    if not connected():
        return values
    stacked = torch.stack(list(values.values()))
    dist.all_reduce(stacked)
    return dict(zip(values, stacked / dist.get_world_size(), strict=True))
