"""Every change that basicsr-cir makes to BasicSR, in one table.

A patch replaces one attribute of a BasicSR module or class by what its ``wrap`` makes of the
original. :func:`table` prints the table of ``docs/basicsr_patches.md``. BasicSR's own files stay
untouched, and each replacement is harmless if upstream has fixed the defect.
"""

import builtins
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from cir_host import (
    distributed,
    ema,
    encoding,
    loading,
    log_file,
    lookup,
    metric_guards,
    parsing,
    prefetch,
    progress,
    registration,
    rehearsal,
    resume,
    saving,
    stopping,
    tensorboard_writer,
    training,
    yaml_reading,
)
from cir_host import image_files as images


@dataclass(frozen=True)
class Patch:
    """One replaced attribute of BasicSR."""

    target: str
    """``module:attribute``, with dots in the attribute for a member. A builtin is replaced in that
    module only."""
    wrap: Callable[[Any], Any]
    """Takes the original attribute and returns the replacement."""
    numbers: tuple[int, ...]
    """Of the defects that it corrects."""
    defect: str
    """What goes wrong without it, in one line."""


_READERS = (
    "utils.img_util",
    "utils",
    "data.ffhq_dataset",
    "data.paired_image_dataset",
    "data.realesrgan_dataset",
    "data.realesrgan_paired_dataset",
    "data.reds_dataset",
    "data.single_image_dataset",
    "data.vimeo90k_dataset",
)
"""Modules of BasicSR that hold ``imfrombytes`` by name."""

_WRITERS = (
    "utils.img_util",
    "utils",
    "models.hifacegan_model",
    "models.sr_model",
    "models.stylegan2_model",
    "models.video_base_model",
    "models.video_recurrent_model",
)
"""Modules of BasicSR that hold ``imwrite`` by name."""

_LIST_READERS = (
    "data_util",
    "ffhq_dataset",
    "realesrgan_dataset",
    "realesrgan_paired_dataset",
    "reds_dataset",
    "single_image_dataset",
    "video_test_dataset",
    "vimeo90k_dataset",
)
"""Modules of ``basicsr.data`` that open a ``meta_info_file``."""

PATCHES: tuple[Patch, ...] = (
    Patch(
        "basicsr.utils.registry:Registry._do_register",
        registration.beside_ours,
        (),
        "a package that registers one of our names after us cannot be imported",
    ),
    Patch(
        "basicsr.utils.registry:Registry.get",
        lookup.name_the_near,
        (),
        "the error for an unknown name suggests no similar names and misleads",
    ),
    Patch(
        "basicsr.utils.options:ordered_yaml",
        yaml_reading.read_numbers,
        (12,),
        "`1e-4` in an options file is read as a string",
    ),
    Patch(
        "basicsr.utils.options:ordered_yaml",
        yaml_reading.sound_sections,
        (),
        "a YAML alias shares the section of its anchor: `optim_d: *optim_g` lacks `type`; the merge"
        " key `<<` is an error; of repeated keys, all but the last are silently dropped",
    ),
    Patch(
        "basicsr.utils.options:_postprocess_yml_value",
        yaml_reading.force_numbers,
        (12,),
        "`1e-4` and `-1` in `--force_yml` are read as strings",
    ),
    Patch(
        "basicsr.utils.options:osp",
        yaml_reading.expand_lists,
        (),
        "a list of folders for `dataroot_gt` or `dataroot_lq` raises a TypeError",
    ),
    Patch(
        "basicsr.utils.options:open",
        encoding.open_in_its_encoding,
        (14,),
        "non-ASCII text needs a UTF-8 locale, and a byte order mark is an error",
    ),
    *(
        Patch(
            f"basicsr.data.{module}:open",
            encoding.open_in_its_encoding,
            (14,),
            "as above, for lists of images",
        )
        for module in _LIST_READERS
    ),
    *(
        Patch(
            f"basicsr.{module}:get_root_logger",
            log_file.log_file_in_utf8,
            (14,),
            "as above, for the log file",
        )
        for module in ("train", "test")
    ),
    *(
        Patch(
            f"basicsr.{module}:parse_options",
            parsing.sound_options,
            (12, 13, 25),
            "misspelled keys have no effect; missing keys and a missing tensorboard are noticed"
            " late",
        )
        for module in ("utils.options", "train", "test")
    ),
    *(
        Patch(
            f"basicsr.{module}:make_exp_dirs",
            rehearsal.rehearse_first,
            (10, 13, 28),
            "an earlier run is renamed before the new options are checked; a test without weights"
            " measures a random network",
        )
        for module in ("train", "test")
    ),
    Patch(
        "basicsr.models.base_model:BaseModel.load_network",
        loading.load_any_container,
        (11, 29),
        "a partly loaded network is measured like any other, and its EMA starts from other random"
        " values; an unreadable file is not named",
    ),
    Patch(
        "basicsr.utils.registry:METRIC_REGISTRY._obj_map",
        metric_guards.guarded_registry,
        (27,),
        "equal images have infinite PSNR; for small images, SSIM is NaN and NIQE fails obscurely",
    ),
    *(
        Patch(f"basicsr.metrics:{name}", metric_guards.guarded, (27,), "as above")
        for name in ("calculate_psnr", "calculate_ssim", "calculate_niqe")
    ),
    Patch(
        "basicsr.train:load_resume_state",
        lambda _: resume.load_resume_state,
        (3, 21),
        "resuming needs a GPU; `--auto_resume` mixes state and weights of different runs",
    ),
    Patch(
        "basicsr.utils.dist_util:init_dist",
        distributed.any_device,
        (4,),
        "distributed runs need a GPU",
    ),
    Patch(
        "basicsr.utils.options:init_dist",
        distributed.any_device,
        (4,),
        "as above, under the name by which the options parser calls it",
    ),
    Patch(
        "basicsr.models.base_model:BaseModel.model_to_device",
        distributed.wrap_on_any_device,
        (5,),
        "distributed networks need a GPU and trainable weights",
    ),
    Patch(
        "basicsr.models.base_model:BaseModel.validation",
        distributed.on_bare_networks,
        (23,),
        "validation in one of several processes waits for the others to broadcast buffers",
    ),
    Patch(
        "basicsr.models.base_model:BaseModel.validation",
        training.last_validation_at_total,
        (26,),
        "the last validation is done twice, and counted as iteration `total_iter` + 1",
    ),
    Patch(
        "basicsr.models.base_model:BaseModel.validation",
        saving.best_metrics_into_state,
        (24,),
        "a training state saved at a validation lacks its best metrics",
    ),
    Patch(
        "basicsr.models.base_model:BaseModel.save_network",
        lambda _: saving.save_network,
        (),
        "a full disk or a killed run replaces the earlier checkpoint by half of the new one",
    ),
    Patch(
        "basicsr.models.base_model:BaseModel.save_training_state",
        lambda _: saving.save_training_state,
        (24,),
        "resuming is not exact: random states, samples drawn and best metrics are not saved",
    ),
    Patch(
        "basicsr.models.base_model:BaseModel.resume_training",
        lambda _: saving.resume_training,
        (24,),
        "as above, for loading them",
    ),
    Patch(
        "basicsr.models.base_model:BaseModel.setup_schedulers",
        training.sound_periods,
        (10,),
        "a learning-rate schedule that is too short ends the training early",
    ),
    Patch(
        "basicsr.models.base_model:BaseModel.model_ema",
        ema.with_buffers,
        (22,),
        "EMA weights keep the buffers of the untrained network",
    ),
    *(
        Patch(
            f"basicsr.{module}:build_dataloader",
            training.sound_loader,
            (2, 8, 18),
            "spawned data loader workers cannot import BasicSR; `persistent_workers` without"
            " workers is an error; with a batch larger than the data set, nothing is trained",
        )
        for module in ("data", "train", "test")
    ),
    Patch(
        "basicsr.train:create_train_val_dataloader",
        training.one_stream,
        (17, 24),
        "training ends before `total_iter` if the batch size does not divide the data set; a"
        " resumed run restarts its epoch; random streams depend on the number of workers and repeat"
        " in every epoch",
    ),
    Patch(
        "basicsr.train:create_train_val_dataloader",
        prefetch.without_gpu,
        (7,),
        "`prefetch_mode: cuda` fails without a GPU",
    ),
    Patch(
        "basicsr.data.prefetch_dataloader:CPUPrefetcher.__init__",
        prefetch.lazy_start,
        (19,),
        "prefetching with persistent workers hangs, because the loader is opened twice",
    ),
    Patch(
        "basicsr.data.prefetch_dataloader:CUDAPrefetcher.__init__",
        prefetch.start_at_reset,
        (19,),
        "the CUDA prefetcher opens the loader twice; the first batches are made and discarded",
    ),
    Patch(
        "basicsr.data.prefetch_dataloader:CUDAPrefetcher.next",
        prefetch.keep_until_used,
        (),
        "the CUDA prefetcher copies a batch over one that the GPU still reads",
    ),
    Patch(
        "basicsr.data.prefetch_dataloader:PrefetchDataLoader.__iter__",
        prefetch.one_thread_at_a_time,
        (19,),
        "after an unfinished epoch, two threads read from persistent workers",
    ),
    Patch(
        "basicsr.data.prefetch_dataloader:PrefetchGenerator",
        lambda _: prefetch.PrefetchThread,
        (20,),
        "an error in the prefetching thread hangs the training",
    ),
    *(
        Patch(
            f"basicsr.data.prefetch_dataloader:{method}",
            prefetch.one_line_errors,
            (),
            "the error of a data loader worker is buried in its traceback",
        )
        for method in ("CPUPrefetcher.next", "CUDAPrefetcher.preload")
    ),
    Patch(
        "basicsr.utils.file_client:FileClient.get",
        images.remember_source,
        (),
        "an unreadable file is not named",
    ),
    *(
        Patch(
            f"basicsr.{module}:imfrombytes",
            images.name_unreadable,
            (),
            "as above, for decoding",
        )
        for module in _READERS
    ),
    *(
        Patch(
            f"basicsr.{module}:imwrite",
            images.write_by_python,
            (),
            "writing an image whose name is not UTF-8 kills the process; a full disk silently"
            " leaves half a file",
        )
        for module in _WRITERS
    ),
    Patch(
        "basicsr.train:init_tb_logger",
        tensorboard_writer.survive_full_disk,
        (),
        "a disk too full for TensorBoard's file ends the training",
    ),
    Patch(
        "basicsr.train:MessageLogger",
        lambda _: progress.TrainingLog,
        (),
        "the log shows seconds but no speed, and its ETA is wrong in a resumed run",
    ),
    Patch(
        "basicsr.models.base_model:BaseModel.update_learning_rate",
        stopping.save_and_stop,
        (),
        "SIGTERM, which clusters send before they kill, loses all training since the last save",
    ),
    Patch("basicsr.train:train_pipeline", stopping.stop_on_sigterm, (), "as above"),
    Patch(
        "basicsr.models.base_model:BaseModel.update_learning_rate",
        training.validate_what_was_missed,
        (),
        "a run killed between a save and its validation skips that validation when it resumes",
    ),
    *(
        Patch(
            f"basicsr.{module}:{module}_pipeline",
            distributed.leave_group_at_end,
            (4,),
            "distributed processes exit without destroying the process group",
        )
        for module in ("train", "test")
    ),
)

_applied: set[Patch] = set()
_originals: dict[str, Any] = {}


def apply() -> None:
    """Apply every patch once, in the table's order; later calls do nothing."""
    for patch in PATCHES:
        if patch not in _applied:
            owner, name = _locate(patch.target)
            current = getattr(owner, name, None) or getattr(builtins, name)
            _originals.setdefault(patch.target, current)
            setattr(owner, name, patch.wrap(current))
            _applied.add(patch)


def original(target: str) -> Any:
    """Return BasicSR's own attribute behind a patched target."""
    return _originals[target]


def _locate(target: str) -> tuple[Any, str]:
    module, _, path = target.partition(":")
    owner: Any = import_module(module)
    *parents, name = path.split(".")
    for parent in parents:
        owner = getattr(owner, parent)
    return owner, name


_ELSEWHERE = (
    (
        "torchvision >= 0.17 has no `transforms.functional_tensor`: BasicSR cannot be imported",
        "1, 2",
        "the module is supplied by `cir_host.compat`",
    ),
    (
        "SciPy 2 has no `ndimage.filters`: BasicSR cannot be imported",
        "15",
        "the module is supplied by `cir_host.compat`",
    ),
    (
        "`torch.distributed.launch` passes `--local-rank`, which BasicSR does not know",
        "6",
        "nothing; the command `basicsr` rewrites its arguments",
    ),
)
"""Defects corrected without replacing an attribute: defect, number, correction."""


def table() -> str:
    """Return all corrected defects as a Markdown table with a row for each defect."""
    rows: dict[str, tuple[str, list[str]]] = {}
    defect = ""
    for patch in PATCHES:
        # "as above": a further replacement for the defect of the previous row
        defect = defect if patch.defect.startswith("as above") else patch.defect
        numbers = ", ".join(map(str, patch.numbers))
        rows.setdefault(defect, (numbers, []))[1].append(patch.target.removeprefix("basicsr."))
    lines = ["| defect of BasicSR 1.4.2 | no. | replaced, below `basicsr.` |", "|---|---|---|"]
    lines += [f"| {text} | {numbers} | {answer} |" for text, numbers, answer in _ELSEWHERE]
    lines += [
        f"| {text} | {numbers} | {', '.join(f'`{name}`' for name in names)} |"
        for text, (numbers, names) in rows.items()
    ]
    return "\n".join(lines)
