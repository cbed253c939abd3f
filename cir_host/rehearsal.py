"""A rehearsal of a run before its folder is made, so that bad options cannot cost an earlier run.

BasicSR renames the folder of an earlier run of the same name, and only then builds data sets and
networks. The rehearsal builds them first, on the CPU or without memory, and writes nothing.
"""

import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from copy import deepcopy
from functools import wraps
from pathlib import Path
from typing import Any, cast

import torch
from basicsr import data
from basicsr.data.data_sampler import EnlargedSampler
from basicsr.models import lr_scheduler
from basicsr.models.base_model import BaseModel
from basicsr.models.sr_model import SRModel
from basicsr.utils import logger as basicsr_logger
from basicsr.utils.registry import ARCH_REGISTRY, DATASET_REGISTRY, MODEL_REGISTRY
from torch import nn

from cir_host.checkpoint import locate
from cir_host.errors import OptionsError, UserError
from cir_host.option_keys import further_networks
from cir_host.ownership import is_known, is_ours
from cir_host.parsing import command_line
from cir_host.random_states import kept_random_states

_REFUSALS = (OSError, AssertionError, LookupError, TypeError, ValueError, RuntimeError)
"""Errors of BasicSR's constructors on options that they cannot use."""


def rehearse_first(original: Callable[..., Any]) -> Callable[..., Any]:
    """Make ``make_exp_dirs`` rehearse the run before it archives the earlier one.

    Of several processes, the first one rehearses, and all of them raise its error.

    Raises:
        UserError: The run would fail. Nothing on disk has changed.
    """

    @wraps(original)
    def make_exp_dirs(opt: dict[str, Any]) -> None:
        verdict: list[UserError | None] = [None]
        if opt["rank"] == 0:
            try:
                with _silence(), kept_random_states():
                    rehearse(opt)
            except UserError as error:
                verdict = [error]
            except UnicodeEncodeError as error:
                verdict = [
                    OptionsError(
                        f"{error.object!r} cannot be a path in this locale ({error.encoding});"
                        " set the environment variable PYTHONUTF8=1"
                    )
                ]
        if opt["dist"]:
            torch.distributed.broadcast_object_list(verdict)
        if verdict[0] is not None:
            raise verdict[0]
        try:
            original(opt)
        except OSError as error:
            raise UserError(f"{error.filename}: cannot be created ({error.strerror})") from error

    return make_exp_dirs


def rehearse(opt: dict[str, Any]) -> None:
    """Build the data sets, networks, optimizers and schedules of a run from copies of its options.

    Classes of other packages than BasicSR and ours are built, but no methods of theirs are called.

    Raises:
        UserError: A file is missing or would be archived, a data set, network, optimizer or
            schedule cannot be built, or a checkpoint does not fit.
    """
    opt = deepcopy(opt)
    _check_paths(opt)
    _check_uint8(opt)
    for phase, section in opt["datasets"].items():
        _build_dataset(opt, section, f"datasets.{phase}")
    model = model_without_networks(opt)
    sections = [key for key in opt if key.startswith("network_") and opt[key]]
    for key in sections if opt["is_train"] else ["network_g"]:
        if key in opt:
            network = _build_network(opt[key], key)
            _load(model, key, network)
            if key == "network_g" and opt["is_train"] and hasattr(model, "rehearse"):
                model.rehearse(network)
    for where, section in further_networks(opt):
        _build_network(section, where)
    if opt["is_train"]:
        _set_up_training(model)


def _check_paths(opt: Mapping[str, Any]) -> None:
    """Check that nothing that the run reads lies in the folder that it will rename."""
    folder = Path(opt["path"]["experiments_root" if opt["is_train"] else "results_root"]).resolve()
    read: dict[str, Any] = {"-opt": command_line()[0]}
    for key, value in opt["path"].items():
        if key.startswith("pretrain_network"):
            read[f"path.{key}"] = value
    for phase, section in opt["datasets"].items():
        for key in ("dataroot_gt", "dataroot_lq", "meta_info_file"):
            read[f"datasets.{phase}.{key}"] = section.get(key)
    named = [
        (key, path)
        for key, value in read.items()
        for path in (value if isinstance(value, list) else [value])
        if path is not None
    ]
    for key, path in named:
        if folder.exists() and Path(path).resolve().is_relative_to(folder):
            raise OptionsError(
                f"{key}: {path} lies in {folder}, which this run would rename to make room for"
                f" itself; choose another `name` than {opt['name']!r}"
            )


def _check_uint8(opt: Mapping[str, Any]) -> None:
    """Check that the model takes samples of 8 bits, if there are any."""
    model = opt["model_type"]
    for phase, section in opt["datasets"].items():
        if section.get("uint8") is True and not is_ours(MODEL_REGISTRY.get(model)):
            raise OptionsError(
                f"datasets.{phase}.uint8: {model} needs floating-point numbers; remove uint8, or"
                " use model_type: CIRModel"
            )


def _build_dataset(opt: Mapping[str, Any], section: dict[str, Any], where: str) -> None:
    """Build a data set and its loader; if the class is BasicSR's, also read a sample.

    BasicSR's classes look up most of their keys only when a sample is read.
    """
    cls = DATASET_REGISTRY.get(section["type"])
    with _named(where, section["type"]):
        tried = deepcopy(section)
        if is_known(cls) and tried.get("cache") is True:
            del tried["cache"]  # decoding all images is left to the run itself
        dataset = cls(tried)
        if cls.__module__.startswith("basicsr.") and len(dataset):
            dataset[0]
    in_training = section["phase"] == "train"
    sampler = None
    if in_training:
        ratio = section.get("dataset_enlarge_ratio", 1)
        sampler = EnlargedSampler(dataset, opt["world_size"], opt["rank"], ratio)
    if not in_training or is_known(cls):
        data.build_dataloader(
            dataset,
            {**section, "prefetch_mode": None},
            num_gpu=opt["num_gpu"],
            dist=opt["dist"],
            sampler=sampler,
            seed=opt["manual_seed"],
        )


def _build_network(section: Mapping[str, Any], where: str) -> nn.Module:
    """Build a network without memory, or on the CPU if its constructor needs values.

    A network that is neither BasicSR's nor ours is built on the CPU, since it might keep tensors
    for later networks.
    """
    arguments = {key: value for key, value in deepcopy(section).items() if key != "type"}
    cls = ARCH_REGISTRY.get(section["type"])
    if is_known(cls):
        # if this fails, building on the CPU tells whether the options are to blame
        with suppress(Exception), torch.device("meta"):
            return cast(nn.Module, cls(**deepcopy(arguments)))
    with _named(where, section["type"]):
        return cast(nn.Module, cls(**arguments))


def model_without_networks(opt: dict[str, Any]) -> Any:
    """Return a model that only BasicSR's ``BaseModel`` has set up, on the CPU.

    The constructor of its own class would build and load every network. What is called on this
    model may use what ``BaseModel`` sets: ``opt``, ``is_train``, ``device``, ``optimizers`` and
    ``schedulers``. That holds for BasicSR's methods that the rehearsal calls, and is the contract
    of ``rehearse(network)`` of our models.
    """
    cls = MODEL_REGISTRY.get(opt["model_type"])
    model = cls.__new__(cls)
    BaseModel.__init__(model, opt)
    model.device = torch.device("cpu")
    return model


def _load(model: Any, key: str, network: nn.Module) -> None:
    """Load the checkpoint that the options name for a network, as the model will."""
    paths, label = model.opt["path"], key.removeprefix("network_")
    path = paths.get(f"pretrain_{key}")
    if path is None:
        declared = getattr(getattr(network, "facts", None), "has_weights", True)
        if isinstance(model, SRModel) and not model.is_train and declared:
            raise OptionsError(
                f"path.pretrain_{key}: missing; name a checkpoint, since a test of"
                f" {type(network).__name__} without weights would measure a random network"
            )
    elif _loads_as_basicsr(type(model)):
        try:
            there = locate(Path(path)).is_file()
        except UserError as error:
            raise OptionsError(f"path.pretrain_{key}: {error}") from error
        if not there:
            raise OptionsError(f"path.pretrain_{key}: no file {path}")
        strict = paths.get(f"strict_load_{label}", True)
        model.load_network(network, path, strict, paths.get(f"param_key_{label}", "params"))


def _loads_as_basicsr(cls: type) -> bool:
    """Whether loading needs nothing that a constructor of another package might set up."""
    methods = ("load_network", "get_bare_model")
    return issubclass(cls, BaseModel) and all(is_known(getattr(cls, m)) for m in methods)


def _set_up_training(model: Any) -> None:
    """Build optimizers and schedulers for a single parameter in place of the network."""
    options = model.opt["train"]
    if not isinstance(model, SRModel) or not is_known(type(model)):
        return
    if type(model).init_training_settings is SRModel.init_training_settings and not (
        options.get("pixel_opt") or options.get("perceptual_opt")
    ):
        raise OptionsError(
            "train.pixel_opt: missing, and so is train.perceptual_opt; give at least one loss"
        )
    for key in (key for key in ("optim_g", "optim_d") if key in options):
        kind = options[key].pop("type")
        with _named(f"train.{key}", kind, lambda: _optimizers_of(model)):
            weight = nn.Parameter(torch.zeros(1))
            model.optimizers.append(model.get_optimizer(kind, [weight], **options[key]))
    kind = options["scheduler"]["type"]
    with _named("train.scheduler", kind, lambda: _schedulers_of(model)):
        model.setup_schedulers()


def _optimizers_of(model: Any) -> list[str]:
    def build(name: str) -> None:
        model.get_optimizer(name, [nn.Parameter(torch.zeros(1))], lr=1e-3)

    return _supported(build, vars(torch.optim))


def _schedulers_of(model: Any) -> list[str]:
    def build(name: str) -> None:
        model.opt["train"]["scheduler"] = {"type": name}
        model.setup_schedulers()

    return _supported(build, {**vars(lr_scheduler), **vars(torch.optim.lr_scheduler)})


def _supported(build: Callable[[str], None], names: Mapping[str, Any]) -> list[str]:
    """Return the names of the classes that ``build`` does not refuse as unknown."""
    found = []
    for name in (name for name, value in names.items() if isinstance(value, type)):
        try:
            build(name)
        except (NotImplementedError, UserError):
            continue
        except _REFUSALS:  # known, but needs arguments
            pass
        found.append(name)
    return sorted(found)


@contextmanager
def _named(where: str, kind: str, names: Callable[[], list[str]] | None = None) -> Iterator[None]:
    """Put the section's name in front of a constructor's error about its options.

    Args:
        where: The section.
        kind: The type that is built from it.
        names: Returns the names that are implemented, if ``kind`` is not.
    """
    try:
        yield
    except UnicodeEncodeError:
        raise
    except UserError as error:
        if where in str(error):
            raise
        raise OptionsError(f"{where}: {error}") from error
    except NotImplementedError as error:
        allowed = f"; it may be {', '.join(names())}" if names else f": {error}"
        raise OptionsError(f"{where}.type: {kind} is not implemented{allowed}") from error
    except KeyError as error:
        raise OptionsError(f"{where}: {kind} needs the key {error}") from error
    except _REFUSALS as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise OptionsError(f"{where}: {kind} cannot be built; {reason}") from error


@contextmanager
def _silence() -> Iterator[None]:
    """Silence BasicSR's logger, and leave it as it was, since its first user sets it up."""
    logger = logging.getLogger("basicsr")
    initialized = dict(basicsr_logger.initialized_logger)
    disabled = logger.disabled
    basicsr_logger.initialized_logger["basicsr"] = True
    logger.disabled = True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the run itself repeats them
            yield
    finally:
        logger.disabled = disabled
        basicsr_logger.initialized_logger.clear()
        basicsr_logger.initialized_logger.update(initialized)
