"""Sections of an options file as typed structs, with errors of one line."""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta, inspect

from cir_host.errors import OptionsError
from cir_host.lookup import near

S = TypeVar("S", bound=msgspec.Struct)


class DatasetOptions(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """Keys of every data set: BasicSR's own, and those that its data loaders read.

    Each of our data sets adds its own keys in a subclass, its ``options_type``.
    """

    name: str
    type: str
    phase: Literal["train", "val", "test"]
    scale: Annotated[int, Meta(ge=1)] = 1
    manual_seed: int = 0
    """The seed of the run, set by the options parser."""
    num_worker_per_gpu: Annotated[int, Meta(ge=0)] = 0
    batch_size_per_gpu: Annotated[int, Meta(ge=1)] = 1
    dataset_enlarge_ratio: Annotated[float, Meta(gt=0)] = 1
    prefetch_mode: Literal["cpu", "cuda"] | None = None
    num_prefetch_queue: Annotated[int, Meta(ge=1)] = 1
    pin_memory: bool = False
    persistent_workers: bool = False


def typed(section: Mapping[str, Any], struct_type: type[S], where: str) -> S:
    """Return a section of an options file as a typed struct, strictly checked.

    Args:
        section: Keys and values as read from YAML.
        struct_type: A ``msgspec.Struct`` with ``forbid_unknown_fields``. A ``ValueError`` that its
            ``__post_init__`` raises is reported like a wrong type.
        where: The section's name for messages, such as ``datasets.train``; empty for a whole file.

    Raises:
        OptionsError: A key is unknown (the most similar known one is named) or missing, or a value
            has the wrong type or is out of range.

    Example:
        >>> class Optimizer(msgspec.Struct, forbid_unknown_fields=True):
        ...     lr: float
        >>> typed({"lr": 2}, Optimizer, "train.optim_g")
        Optimizer(lr=2.0)
        >>> typed({"lr": "fast"}, Optimizer, "train.optim_g")
        Traceback (most recent call last):
        cir_host.errors.OptionsError: train.optim_g.lr: expected float, got str; it is 'fast'
    """
    try:
        return msgspec.convert(section, struct_type)
    except msgspec.ValidationError as error:
        explanation = _explain(str(error), section, struct_type, where)
        raise OptionsError(explanation.removeprefix(".")) from None


_MESSAGE = re.compile(r"(?P<what>.*?)(?: - at (?:`key` in )?`\$(?P<path>.*)`)?", re.DOTALL)
_FIELD = re.compile(r"Object (?P<how>contains unknown|missing required) field `(?P<key>.*)`")


def _explain(message: str, section: Any, struct_type: type[msgspec.Struct], where: str) -> str:
    parts = _MESSAGE.fullmatch(message)
    assert parts is not None  # the pattern matches every message
    what, path = parts["what"], parts["path"] or ""
    types = _types_at(struct_type, path)
    field = _FIELD.fullmatch(what)
    if field is None:
        allowed = [str(v) for t in types if isinstance(t, inspect.LiteralType) for v in t.values]
        if allowed:
            allowed += [_integer(t) for t in types if isinstance(t, inspect.IntType)]
            what = f"expected {' or '.join(allowed)}"
        what = what[:1].lower() + what[1:].replace("`", "")
        return f"{where}{path}: {what}{_value_at(section, path)}"
    place = f"{where}{path}.{field['key']}"
    if field["how"] == "missing required":
        return f"{place}: missing"
    known = [f.encode_name for t in types if isinstance(t, inspect.StructType) for f in t.fields]
    return f"{place}: unknown key{near(field['key'], known)}"


def _integer(kind: inspect.IntType) -> str:
    return "an integer" if kind.ge is None else f"an integer from {kind.ge}"


def _steps(path: str) -> list[str]:
    """Split msgspec's ``.a.b[0]`` into its keys and indices; ``...`` is an unknown index."""
    return re.findall(r"[^.\[\]]+|\.\.\.", path)


def _value_at(section: Any, path: str) -> str:
    for step in _steps(path):
        if step == "...":
            return ""
        section = section[step if isinstance(section, Mapping) else int(step)]
    return "" if isinstance(section, Mapping) else f"; it is {section!r}"


def _types_at(struct_type: type[msgspec.Struct], path: str) -> list[Any]:
    """Return the types that a struct allows at a path; the members of a union."""
    types: list[Any] = [inspect.type_info(struct_type)]
    for step in _steps(path):
        inner: list[Any] = []
        for kind in types:
            if isinstance(kind, inspect.StructType):
                inner += [field.type for field in kind.fields if field.encode_name == step]
            elif hasattr(kind, "item_type"):
                inner.append(kind.item_type)
        types = [
            _bare(member)
            for kind in map(_bare, inner)
            for member in getattr(kind, "types", (kind,))
        ]
    return types


def _bare(kind: Any) -> Any:
    """Return a type without its metadata."""
    return kind.type if isinstance(kind, inspect.Metadata) else kind
