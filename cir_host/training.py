"""Corrections of BasicSR's training loop: its length, its data loaders, its last validation."""

import math
import os
import signal
import threading
from collections.abc import Callable, Mapping, Sized
from dataclasses import dataclass
from functools import partial, wraps
from typing import Any
from weakref import WeakKeyDictionary

import torch
from basicsr.utils import get_root_logger
from basicsr.utils.registry import MODEL_REGISTRY

from cir_host.errors import OptionsError, UserError
from cir_host.random_states import kept_random_states
from cir_host.sampler import DataPlan, SeededSamples, Stage, TrainingBatches
from cir_host.spawn import import_host_first
from cir_host.stopping import stopping


@dataclass
class Validations:
    """Loaders and writer for validations outside BasicSR's loop; ``opt["validations"]``."""

    loaders: list[Any]
    tb_logger: Any = None

    def __deepcopy__(self, memo: Any) -> "Validations":
        """Return the object itself, since a model copies its options."""
        return self


def one_stream(original: Callable[..., Any]) -> Callable[..., Any]:
    """Make ``create_train_val_dataloader`` return all batches of the run as one long epoch.

    BasicSR counts the incomplete last batch of an epoch, which its loader drops, so it ends before
    ``total_iter``; a resumed run restarts its epoch. Here the loader continues where
    ``opt["resumed_from"]`` stopped and ends at ``total_iter``. ``opt["data_plan"]`` holds which
    samples an iteration takes.

    A model may define ``training_stages(opt, batch_size)``, which returns stages of other sizes.
    """

    @wraps(original)
    def create_train_val_dataloader(opt: dict[str, Any], logger: Any) -> tuple[Any, ...]:
        loader, sampler, val_loaders, _, total_iter = original(opt, logger)
        plan = opt["data_plan"] = _plan(opt, loader)
        batches = TrainingBatches(plan, total_iter, opt["rank"], opt["world_size"])
        opt["validations"] = Validations(val_loaders)
        logger.info(
            f"Samples per epoch: {plan.epoch_size}; samples up to iteration {total_iter}:"
            f" {plan.drawn(total_iter)} ({plan.drawn(total_iter) / plan.epoch_size:.2f} epochs)."
        )
        start_epoch = opt.get("resumed_from", {"epoch": 0})["epoch"]
        # BasicSR trains from the epoch of the state to the last one, inclusive
        return _streaming(loader, batches, opt), sampler, val_loaders, start_epoch, total_iter

    return create_train_val_dataloader


def _plan(opt: Mapping[str, Any], loader: Any) -> DataPlan:
    images = len(loader.dataset)
    epoch_size = math.ceil(images * opt["datasets"]["train"].get("dataset_enlarge_ratio", 1))
    total_iter, batch_size = int(opt["train"]["total_iter"]), loader.batch_size * opt["world_size"]
    model = MODEL_REGISTRY.get(opt["model_type"])
    if hasattr(model, "training_stages"):
        stages = model.training_stages(opt, batch_size)
    else:
        stages = (Stage(total_iter, batch_size),)
    start = opt.get("resumed_from", {"epoch": 0, "iter": 0})
    # a state saved by plain BasicSR does not say how far its epoch was
    drawn = start.get("samples", start["epoch"] * epoch_size)
    return DataPlan(images, epoch_size, stages, start["iter"], drawn)


def _streaming(loader: Any, batches: TrainingBatches, opt: Mapping[str, Any]) -> Any:
    """Return a loader with the settings of BasicSR's, but the run's own batches."""
    dataset = loader.dataset
    if not getattr(dataset, "seeds_samples", False):
        dataset = SeededSamples(dataset, opt["manual_seed"])
    kept = ("num_workers", "collate_fn", "pin_memory", "persistent_workers", "num_prefetch_queue")
    return type(loader)(
        dataset=dataset,
        batch_sampler=batches,
        worker_init_fn=partial(_start_worker, loader.worker_init_fn),
        # an iterator draws a seed when it starts; it must not come from the global generator
        generator=torch.Generator().manual_seed(opt["manual_seed"]),
        **{name: getattr(loader, name) for name in kept if hasattr(loader, name)},
    )


def _start_worker(original: Callable[[int], None], worker: int) -> None:
    original(worker)
    if hasattr(signal, "sigwaitinfo"):
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_obey_parent, daemon=True).start()


def _obey_parent() -> None:
    """Let only a SIGTERM from the parent end a worker, not one to all processes of the run.

    The parent still needs the worker for the samples of its last iteration.
    """
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)


def sound_periods(original: Callable[..., Any]) -> Callable[..., Any]:
    """Make ``setup_schedulers`` refuse a learning-rate schedule that ends before the training.

    Raises:
        OptionsError: The periods sum to less than ``total_iter``.
    """

    @wraps(original)
    def setup_schedulers(self: Any) -> None:
        original(self)
        total_iter = int(self.opt["train"]["total_iter"])
        for scheduler in self.schedulers:
            reach = getattr(scheduler, "cumulative_period", [total_iter])[-1]
            if reach < total_iter - 1:
                raise OptionsError(
                    f"train.scheduler.periods: they sum to {reach}, less than train.total_iter"
                    f" {total_iter}; lengthen them, or training would fail there"
                )
            if reach > total_iter:
                get_root_logger().warning(
                    f"train.scheduler.periods sum to {reach}, more than train.total_iter"
                    f" {total_iter}: the learning rate will not reach its final value."
                )

    return setup_schedulers


def sound_loader(original: Callable[..., Any]) -> Callable[..., Any]:
    """Make ``build_dataloader`` refuse loaders without batches, and prepare spawned workers.

    Without workers, as in BasicSR's validations and tests, ``persistent_workers`` is dropped, since
    PyTorch would refuse it.

    Raises:
        UserError: The data set is empty, or has fewer samples than one training batch.
    """

    @wraps(original)
    def build_dataloader(
        dataset: Any, dataset_opt: dict[str, Any], *args: Any, **kwargs: Any
    ) -> Any:
        import_host_first(dataset)
        section = dataset_opt.get("name", dataset_opt["phase"])
        if isinstance(dataset, Sized) and len(dataset) == 0:
            raise UserError(f"data set {section!r}: holds no images; check its folders in datasets")
        in_training = dataset_opt["phase"] == "train"
        if not (in_training and dataset_opt["num_worker_per_gpu"]):
            dataset_opt = {k: v for k, v in dataset_opt.items() if k != "persistent_workers"}
        loader = original(dataset, dataset_opt, *args, **kwargs)
        if in_training and len(loader) == 0:
            raise UserError(
                f"data set {section!r}: {len(dataset)} images give {len(loader.sampler)} samples"
                f" per epoch and process, less than one batch of {loader.batch_size}; lower"
                " batch_size_per_gpu or raise dataset_enlarge_ratio"
            )
        return loader

    return build_dataloader


def last_validation_at_total(original: Callable[..., Any]) -> Callable[..., Any]:
    """Make the validation after the training loop count as ``total_iter``, and happen once.

    BasicSR's loop may leave the iteration one too high. A data set that was validated at
    ``total_iter`` within the loop is not validated again.
    """

    @wraps(original)
    def validation(
        self: Any, dataloader: Any, current_iter: int, tb_logger: Any, save_img: bool = False
    ) -> None:
        if not self.is_train:  # a test passes the run's name instead of an iteration
            original(self, dataloader, current_iter, tb_logger, save_img)
            return
        total_iter = int(self.opt["train"]["total_iter"])
        validated = vars(self).setdefault("_validated_at", WeakKeyDictionary())
        current_iter = min(current_iter, total_iter)
        if validated.get(dataloader) == current_iter:
            return
        with kept_random_states():  # training draws the same numbers without a validation
            original(self, dataloader, current_iter, tb_logger, save_img)
        if not stopping():
            validated[dataloader] = current_iter

    return validation


def validated_at(model: Any, iteration: int) -> list[str]:
    """Return the names of the data sets that a model validated at an iteration."""
    validated = vars(model).get("_validated_at", {})
    return [loader.dataset.opt["name"] for loader, at in validated.items() if at == iteration]


def validate_what_was_missed(original: Callable[..., Any]) -> Callable[..., Any]:
    """Make ``BaseModel.update_learning_rate`` begin a resumed run with the validation it missed.

    BasicSR saves before it validates, so a run killed in between would never validate that
    iteration.
    """

    @wraps(original)
    def update_learning_rate(self: Any, current_iter: int, *args: Any, **kwargs: Any) -> None:
        if vars(self).pop("_unvalidated", False):
            validations = self.opt["validations"]
            for loader in validations.loaders:
                save_img = self.opt["val"]["save_img"]
                self.validation(loader, current_iter - 1, validations.tb_logger, save_img)
        original(self, current_iter, *args, **kwargs)

    return update_learning_rate
