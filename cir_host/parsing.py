"""Checks around BasicSR's options parser.

``parse_options`` reads ``sys.argv`` itself. The wrapper reads the same file first, so a mistake is
one line that names the key; after parsing, it checks keys and names.
"""

import argparse
from collections.abc import Callable, Mapping
from functools import wraps
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import torch
from basicsr.models.sr_model import SRModel
from basicsr.utils.registry import MODEL_REGISTRY
from msgspec import Meta

from cir_host import option_keys
from cir_host.distributed import refuse_lone_process
from cir_host.errors import OptionsError
from cir_host.folder_names import check_name
from cir_host.hat_options import translate
from cir_host.log_file import warn_before_log
from cir_host.lookup import look_up
from cir_host.ownership import is_ours
from cir_host.typed_options import typed
from cir_host.yaml_reading import override, read_options


class _Typed(msgspec.Struct):
    type: str


class _Optimizer(_Typed):
    lr: Annotated[float, Meta(gt=0)]


class _Dataset(_Typed, kw_only=True):
    name: Any
    dataroot_gt: str | list[str] | None = None
    dataroot_lq: str | list[str] | None = None


class _TrainingSet(_Dataset, kw_only=True):
    num_worker_per_gpu: Annotated[int, Meta(ge=0)]
    batch_size_per_gpu: Annotated[int, Meta(ge=1)]


Every = Annotated[float, Meta(gt=0)]
"""A number of iterations, which may be written as ``5e3``."""


class _Validation(msgspec.Struct):
    save_img: bool
    metrics: dict[str, Any] | None = None


class _ValidationInTraining(_Validation, kw_only=True):
    val_freq: Every


class _Logging(msgspec.Struct):
    print_freq: Every
    save_checkpoint_freq: Every
    use_tb_logger: bool


class _Options(msgspec.Struct, kw_only=True):
    """Keys for which BasicSR has no default."""

    name: Any
    model_type: str
    num_gpu: Annotated[int, Meta(ge=0)] | Literal["auto"]
    manual_seed: int | None = None
    datasets: dict[str, Any]
    path: dict[str, Any]


class _TestOptions(_Options, kw_only=True):
    val: _Validation


class _Length(msgspec.Struct):
    total_iter: Every


class _TrainOptions(_Options, kw_only=True):
    train: _Length
    logger: _Logging
    val: _ValidationInTraining | None = None


class _SRTraining(msgspec.Struct):
    """Keys of ``train`` that ``SRModel`` and its subclasses require."""

    optim_g: _Optimizer
    scheduler: _Typed


def command_line() -> tuple[Path | None, list[str]]:
    """Return the options file and the ``--force_yml`` entries that ``sys.argv`` names."""
    parser = argparse.ArgumentParser(add_help=False, exit_on_error=False)
    parser.add_argument("-opt", type=Path)
    parser.add_argument("--force_yml", nargs="+", default=[])
    try:
        found, _ = parser.parse_known_args()
    except argparse.ArgumentError:  # BasicSR's own parser explains it
        return None, []
    return found.opt, found.force_yml


def sound_options(original: Callable[..., Any]) -> Callable[..., Any]:
    """Make ``parse_options`` name mistakes in the file, and warn of keys without effect.

    Each section of ``datasets`` gets the run's ``manual_seed``, which our data sets use.

    Raises:
        UserError: The file cannot be read, lacks a key, or requires something that is not
            installed; or this is one of several processes and ``--launcher`` is not given.
    """

    @wraps(original)
    def parse_options(root_path: str, is_train: bool = True) -> Any:
        file, entries = command_line()
        if file is None:
            return original(root_path, is_train)
        given = read_options(file)
        for entry in entries:
            override(given, entry)
        _number_names_to_texts(given)
        translated = translate(given)
        _require_keys(given, is_train)
        opt, args = original(root_path, is_train)
        if args.launcher == "none":
            refuse_lone_process()
        _number_names_to_texts(opt)
        translate(opt)
        for dataset in opt["datasets"].values():
            dataset.setdefault("manual_seed", opt["manual_seed"])
        found = translated + option_keys.check(opt, given)
        warn_before_log(found if opt["rank"] == 0 else [])
        _require_parts(opt)
        return opt, args

    return parse_options


def _require_keys(given: dict[str, Any], is_train: bool) -> None:
    """Check the presence and type of the keys for which BasicSR has no default."""
    if is_train and "train" not in given:
        raise OptionsError("train: missing; a file without it is one for `basicsr test`")
    typed(given, _TrainOptions if is_train else _TestOptions, "")
    check_name(given["name"], "name")
    _require_paths(given["path"])
    allowed = ("train", "val") if is_train else ("train", "val", "test")
    for phase, section in given["datasets"].items():
        if phase.split("_")[0] not in allowed:
            raise OptionsError(
                f"datasets.{phase}: the name of the section must start with {' or '.join(allowed)}"
            )
        typed(section, _Dataset, f"datasets.{phase}")
        check_name(section["name"], f"datasets.{phase}.name")
    if suffix := (given.get("val") or {}).get("suffix"):
        check_name(str(suffix), "val.suffix")
    for metric, section in ((given.get("val") or {}).get("metrics") or {}).items():
        typed(section, _Typed, f"val.metrics.{metric}")
    if is_train:
        if "train" not in given["datasets"]:
            raise OptionsError("datasets.train: missing; training needs a data set")
        typed(given["datasets"]["train"], _TrainingSet, "datasets.train")
    _require_keys_of_model(given, is_train)


def _number_names_to_texts(options: Mapping[str, Any]) -> None:
    """Turn numeric names of data sets into strings, which BasicSR can join to a path."""
    datasets = options.get("datasets")
    for section in datasets.values() if isinstance(datasets, Mapping) else ():
        if isinstance(section, dict) and type(section.get("name")) is int:
            section["name"] = str(section["name"])


def _require_paths(paths: Mapping[str, Any]) -> None:
    for key, value in paths.items():
        is_path = "pretrain_network" in key or "resume_state" in key
        if is_path and not isinstance(value, str | None):
            raise OptionsError(f"path.{key}: expected a path, or ~ for none; it is {value!r}")


def _require_keys_of_model(given: dict[str, Any], is_train: bool) -> None:
    model = look_up(MODEL_REGISTRY, given["model_type"], "model_type")
    if is_ours(model):
        _require_different_names(given["datasets"])
    if not (isinstance(model, type) and issubclass(model, SRModel)):
        return
    if "network_g" not in given:
        raise OptionsError("network_g: missing; name a network, such as {type: PromptCIR}")
    typed(given["network_g"], _Typed, "network_g")
    if is_train:
        typed(given["train"], _SRTraining, "train")
    elif given["val"]["save_img"] and "suffix" not in given["val"] and not is_ours(model):
        raise OptionsError(
            "val.suffix: missing; save_img needs it, and ~ means the name of the run"
        )


def _require_different_names(datasets: Mapping[str, Any]) -> None:
    """Check that no two data sets share a name, by which results and images are stored."""
    phases: dict[str, str] = {}
    for phase, section in datasets.items():
        if phase == "train":
            continue
        other = phases.setdefault(section["name"], phase)
        if other != phase:
            raise OptionsError(
                f"datasets.{phase}.name: {section['name']} is also the name of datasets.{other};"
                " give each its own name, under which its results are stored"
            )


def _require_parts(opt: Mapping[str, Any]) -> None:
    """Check that this machine has the GPU and the packages that the options require."""
    if opt["num_gpu"] > 0 and not torch.cuda.is_available():
        raise OptionsError(f"num_gpu: it is {opt['num_gpu']}, but there is no GPU; write 0 or auto")
    if not opt["is_train"] or "debug" in opt["name"]:
        return
    wandb = (opt["logger"].get("wandb") or {}).get("project") is not None
    if wandb and not opt["logger"]["use_tb_logger"]:
        raise OptionsError(
            "logger.wandb.project: needs logger.use_tb_logger: true, whose values it copies"
        )
    for module, wanted, key in (
        ("tensorboard", opt["logger"]["use_tb_logger"], "use_tb_logger"),
        ("wandb", wandb, "wandb"),
    ):
        if wanted and find_spec(module) is None:
            raise OptionsError(
                f"logger.{key}: {module} is not installed; `pip install {module}`, or turn it off"
            )
