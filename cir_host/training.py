"""BasicSR's training loop made sound: its length, its loaders, its last validation."""

import math
from collections.abc import Callable, Sized
from functools import wraps
from typing import Any
from weakref import WeakKeyDictionary

from cir_host.errors import UserError
from cir_host.spawn import import_host_first


def full_length(original: Callable[..., Any]) -> Callable[..., Any]:
    """Make ``create_train_val_dataloader`` count epochs by the batches that the loader yields.

    BasicSR rounds the batches of an epoch up, while its loader drops the last incomplete one, and
    so ends before ``total_iter``. A resumed run counts from where it stands, so that it reaches
    ``total_iter`` also with another batch size than before.
    """

    @wraps(original)
    def create_train_val_dataloader(opt: dict[str, Any], logger: Any) -> tuple[Any, ...]:
        loader, sampler, val_loaders, _, total_iter = original(opt, logger)
        start = opt.get("resumed_from", {"epoch": 0, "iter": 0})
        remaining = max(0, total_iter - start["iter"])
        total_epochs = start["epoch"] + math.ceil(remaining / len(loader))
        logger.info(
            f"Complete batches per epoch: {len(loader)}; epochs to reach iteration {total_iter}:"
            f" {total_epochs}."
        )
        return loader, sampler, val_loaders, total_epochs, total_iter

    return create_train_val_dataloader


def sound_loader(original: Callable[..., Any]) -> Callable[..., Any]:
    """Make ``build_dataloader`` refuse loaders that yield nothing, and others' workers importable.

    ``persistent_workers`` is dropped where there are no workers, which BasicSR has in every
    validation and test, and torch refuses.

    Raises:
        UserError: The data set is empty, or holds less than one training batch.
    """

    @wraps(original)
    def build_dataloader(
        dataset: Any, dataset_opt: dict[str, Any], *args: Any, **kwargs: Any
    ) -> Any:
        import_host_first(dataset)
        section = dataset_opt.get("name", dataset_opt["phase"])
        if isinstance(dataset, Sized) and len(dataset) == 0:
            raise UserError(f"Data set {section!r} holds no images; check its folders in datasets")
        in_training = dataset_opt["phase"] == "train"
        if not (in_training and dataset_opt["num_worker_per_gpu"]):
            dataset_opt = {k: v for k, v in dataset_opt.items() if k != "persistent_workers"}
        loader = original(dataset, dataset_opt, *args, **kwargs)
        if in_training and len(loader) == 0:
            raise UserError(
                f"Data set {section!r}: {len(dataset)} images give {len(loader.sampler)} samples"
                f" per epoch and process, less than one batch of {loader.batch_size}; lower"
                " batch_size_per_gpu or raise dataset_enlarge_ratio"
            )
        return loader

    return build_dataloader


def last_validation_at_total(original: Callable[..., Any]) -> Callable[..., Any]:
    """Make ``BaseModel.validation`` after the loop stand at ``total_iter``, once.

    BasicSR's loop ends with the iteration counted one or two beyond the last. A data set that was
    validated at ``total_iter`` inside the loop is not measured again.
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
        if current_iter > total_iter and validated.get(dataloader) == total_iter:
            return
        current_iter = min(current_iter, total_iter)
        original(self, dataloader, current_iter, tb_logger, save_img)
        validated[dataloader] = current_iter

    return validation
