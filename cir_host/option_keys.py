"""A check of the keys of an options file against the code that reads them, before the run starts.

BasicSR reads options with ``.get``, so a misspelled key has no effect. The known keys of a section
are found in the source of the model, of the data set and of BasicSR's pipelines; the arguments of a
network, loss or metric in its signature. Mistakes in our sections are errors; elsewhere they are
warnings, unless BasicSR would fail on them later.
"""

import ast
import inspect
import sys
from collections.abc import Collection, Iterator, Mapping
from functools import cache
from typing import Any

import msgspec
from basicsr.utils.registry import (
    ARCH_REGISTRY,
    DATASET_REGISTRY,
    LOSS_REGISTRY,
    METRIC_REGISTRY,
    MODEL_REGISTRY,
)

from cir_host.errors import OptionsError
from cir_host.lookup import look_up, near
from cir_host.ownership import is_known, is_ours, package_of
from cir_host.typed_options import DatasetOptions, typed

_PIPELINES = ("train", "test", "models", "utils.options", "utils.misc", "utils.logger")
"""Modules of BasicSR that read options, besides models and data sets."""

_LOADER_KEYS = {field.encode_name for field in msgspec.structs.fields(DatasetOptions)}

_HISTORIC_KEYS = {"use_shuffle"}
"""Keys in most of BasicSR's options files that no code reads any more."""


_FOLDERS_OF_TRAINING = {"experiments_root", "models", "training_states", "log", "visualization"}
_FOLDERS_OF_TEST = {"results_root", "log", "visualization"}
"""Keys of ``path`` that BasicSR's parser sets."""

_PATH_KEYS = {"resume_state", "ignore_resume_networks", *_FOLDERS_OF_TRAINING, *_FOLDERS_OF_TEST}


def check(opt: dict[str, Any], given: Mapping[str, Any]) -> list[str]:
    """Check keys and names.

    Args:
        opt: The options as BasicSR's parser returns them. Unknown keys of ``path`` are removed,
            because BasicSR would create a folder named by their value.
        given: The options as the user wrote them.

    Returns:
        Warnings, one line each.

    Raises:
        OptionsError: A name is not registered, a key of our sections is unknown, or an argument is
            one that BasicSR would refuse or miss later.
    """
    model = look_up(MODEL_REGISTRY, given["model_type"], "model_type")
    for section, struct_type in _types_of(model).items():
        if given.get(section) is not None:
            typed(given[section], struct_type, section)
    warnings = []
    for section, key, suggestion in _unknown_keys(given, model):
        warnings.append(f"{section}.{key}".lstrip(".") + f": no code reads this key{suggestion}")
        if section == "path":
            opt["path"].pop(key)
    warnings += _folders(opt, given)
    for key, section in given.items():
        if key.startswith("network_") and isinstance(section, Mapping):
            warnings += _arguments(ARCH_REGISTRY, section, key)
    for where, further in further_networks(given):
        warnings += _arguments(ARCH_REGISTRY, further, where)
    for phase, section in opt["datasets"].items():
        warnings += _dataset(section, f"datasets.{phase}")
    train = given.get("train") or {}
    losses = {k: section for k, section in train.items() if k.endswith("_opt")}
    losses |= {f"losses.{k}": section for k, section in (train.get("losses") or {}).items()}
    for key, section in losses.items():
        if isinstance(section, Mapping) and is_known(model):
            warnings += _arguments(LOSS_REGISTRY, section, f"train.{key}")
    for key, section in ((given.get("val") or {}).get("metrics") or {}).items():
        options = {k: v for k, v in section.items() if k != "better"}
        images = {"img", "img2"}
        warnings += _arguments(METRIC_REGISTRY, options, f"val.metrics.{key}", images)
    return warnings


def further_networks(opt: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield place and section of the networks that ``val.averaged_with`` states."""
    entries = (opt.get("val") or {}).get("averaged_with")
    for index, entry in enumerate(entries if isinstance(entries, list) else ()):
        section = entry.get("network") if isinstance(entry, Mapping) else None
        if isinstance(section, Mapping):
            yield f"val.averaged_with[{index}].network", section


def _folders(opt: dict[str, Any], given: Mapping[str, Any]) -> Iterator[str]:
    """Yield a warning for each folder of the run that the file sets; the parser overrides it."""
    root, parsed = (
        ("experiments", _FOLDERS_OF_TRAINING) if opt["is_train"] else ("results", _FOLDERS_OF_TEST)
    )
    for key in given["path"]:
        if key in _FOLDERS_OF_TRAINING | _FOLDERS_OF_TEST:
            yield f"path.{key}: has no effect; this run is written to {root}/{opt['name']}"
            if key not in parsed:
                opt["path"].pop(key)


def _unknown_keys(given: Mapping[str, Any], model: type) -> Iterator[tuple[str, str, str]]:
    """Yield section, key and suggestion for the top level, path, train, val and logger."""
    read = _keys_read([f"basicsr.{name}" for name in _PIPELINES] + _modules(model))
    if read is None:
        return
    networks = [key.removeprefix("network_") for key in given if key.startswith("network_")]
    of_networks = {f"network_{n}" for n in networks}
    of_networks |= {f"pretrain_network_{n}" for n in networks}
    of_networks |= {f"{key}_{n}" for n in networks for key in ("strict_load", "param_key")}
    of_path = _PATH_KEYS | of_networks if is_known(model) else read | of_networks
    for name in ("", "path", "train", "val", "logger"):
        section = given.get(name) if name else given
        if name in _types_of(model) or not isinstance(section, Mapping):
            continue
        known = of_path if name == "path" else read | of_networks
        for key in section:
            if key not in known:
                yield name, key, near(key, known)


def _types_of(model: type) -> Mapping[str, type[msgspec.Struct]]:
    """Return the structs of our models' sections; a subclass elsewhere may read other keys."""
    types: Mapping[str, type[msgspec.Struct]] = getattr(model, "options_types", {})
    return types if is_ours(model) else {}


def _dataset(section: Mapping[str, Any], where: str) -> Iterator[str]:
    dataset = look_up(DATASET_REGISTRY, section["type"], f"{where}.type")
    options_type = getattr(dataset, "options_type", None)
    if options_type is not None:
        typed(section, options_type, where)
        return
    known = _keys_read(_modules(dataset))
    if known is None:
        return
    for key in section:
        if key not in known and key not in _LOADER_KEYS | _HISTORIC_KEYS:
            suggestion = near(key, known | _LOADER_KEYS)
            yield f"{where}.{key}: {section['type']} does not read this key{suggestion}"


def _arguments(
    registry: Any, section: Mapping[str, Any], where: str, supplied: Collection[str] = ()
) -> Iterator[str]:
    """Check a section whose keys are arguments of a registered class or function.

    A key that ``**kwargs`` would swallow counts as misspelled if a known key is similar.
    """
    function = look_up(registry, section.get("type"), f"{where}.type")
    name, keys = section["type"], [key for key in section if key != "type"]
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # a builtin without a signature
        return
    named = {p.name: p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    swallows = any(p.kind is p.VAR_KEYWORD for p in parameters)
    for key in keys:
        if key in named:
            continue
        suggestion = near(key, named)
        if is_ours(function) or not swallows:
            raise OptionsError(f"{where}.{key}: {name} has no such argument{suggestion}")
        if suggestion:
            yield f"{where}.{key}: {name} ignores this key{suggestion}"
    for key, parameter in named.items():
        if parameter.default is parameter.empty and key not in keys and key not in supplied:
            raise OptionsError(f"{where}.{key}: missing; {name} requires it")


def _modules(cls: type) -> list[str]:
    """Return the modules that define a class and its bases, and so read its options."""
    bases = inspect.getmro(cls)
    return [
        b.__module__ for b in bases if package_of(b) not in ("builtins", "abc", "typing", "torch")
    ]


def _keys_read(modules: list[str]) -> frozenset[str] | None:
    """Return the keys that modules read; None if the source of a module is missing."""
    keys: set[str] = set()
    for module in modules:
        found = _keys_in_source(module)
        if found is None:
            return None
        keys |= found
    return frozenset(keys)


@cache
def _keys_in_source(module: str) -> frozenset[str] | None:
    """Return every string by which a module subscripts, gets, pops or tests membership."""
    try:
        tree = ast.parse(inspect.getsource(sys.modules[module]))
    except (OSError, TypeError, KeyError):
        return None
    return frozenset(
        key.value
        for node in ast.walk(tree)
        for key in _keys_of(node)
        if isinstance(key, ast.Constant) and isinstance(key.value, str)
    )


def _keys_of(node: ast.AST) -> list[ast.expr]:
    if isinstance(node, ast.Subscript):
        return [node.slice]
    if isinstance(node, ast.Compare):
        return [node.left]
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        return node.args[:1] if node.func.attr in ("get", "pop", "setdefault") else []
    return []
