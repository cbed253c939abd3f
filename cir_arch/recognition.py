"""Tells which network a state dict belongs to, with which arguments; loads a file in one call."""

import json
import logging
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

import cir_weights  # noqa: F401 (so that the bundled weights can be loaded by name)
from cir_arch.network import Entry, entries, entry_named
from cir_arch.state_dict import State
from cir_host.checkpoint import NETWORK_KEY, read_checkpoint
from cir_host.checkpoint_files import some_of
from cir_host.errors import UserError
from cir_host.file_names import printable
from cir_host.loading import load_into, register_describer

_logger = logging.getLogger("basicsr")


@dataclass(frozen=True)
class NetworkOptions:
    """A network as an options file names it."""

    type: str
    """Its name in BasicSR's registry."""
    arguments: Mapping[str, Any]
    """Those that differ from the defaults."""
    assumed: Mapping[str, Any] = field(default_factory=dict)
    """Where it was recognised: values that its state dict does not tell, see ``Entry.untold``."""

    @property
    def entry(self) -> Entry | None:
        """The entry of the network, None if it is none of those known here."""
        return entry_named(self.type)

    def __str__(self) -> str:
        """The section ``network_g`` in one line."""
        entries = {"type": self.type, **self.arguments}
        return "{" + ", ".join(f"{k}: {_yaml(v)}" for k, v in entries.items()) + "}"

    def build(self) -> nn.Module:
        """Build the network, with new weights. BasicSR is imported for networks that are not ours.

        Raises:
            UserError: There is no such network, or it cannot have these arguments.
        """
        cls = _look_up(self.type) if self.entry is None else self.entry.load()
        try:
            network: nn.Module = cls(**self.arguments)
        except (TypeError, ValueError, AssertionError, RuntimeError) as error:
            reason = " ".join(str(error).split())
            raise UserError(f"{self.type} cannot be built as {self}: {reason}") from error
        return network

    def outline(self) -> nn.Module:
        """Build the network on the meta device: shapes and facts without weights.

        Raises:
            UserError: As :meth:`build`.
        """
        with torch.device("meta"), _RatesOnTheCPU():
            return self.build()


def _look_up(name: str) -> Any:
    """Return the class of a network that only BasicSR's registry may know."""
    from basicsr.utils.registry import ARCH_REGISTRY

    from cir_host.lookup import look_up

    return look_up(ARCH_REGISTRY, name, "type")


class _RatesOnTheCPU(TorchFunctionMode):
    """Keep ``linspace`` off the meta device: SwinIR's constructor reads its values."""

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        device = {"device": "cpu"} if function is torch.linspace else {}
        return function(*args, **{**(kwargs or {}), **device})


def recognise(state: State) -> NetworkOptions | None:
    """Tell from names and shapes alone which network a state dict belongs to.

    Arguments that change no shape cannot be deduced (each network's ``arguments_from`` names them
    in a comment) and keep their defaults, unless ``arguments_from`` has a rule for them: SwinIR's
    ``img_range`` and ART's ``window_size``, ``interval`` and ``img_range`` are those of the
    published networks that have the same shapes.

    Returns:
        The network with the arguments that differ from its defaults; None if no known network fits,
        or several do of which none extends the others.
    """
    found = candidates(state)
    return found[0] if len(found) == 1 else None


def candidates(state: State) -> list[NetworkOptions]:
    """Return every network that a state dict fits, without those that another of them extends."""
    pairs = ((entry, _recognise_as(entry, state)) for entry in entries())
    fitting = [(entry, options) for entry, options in pairs if options is not None]
    extended = {base for entry, _ in fitting for base in entry.bases}
    return [options for entry, options in fitting if entry.name not in extended]


def load_network(
    path: Path | str,
    key: str | None = None,
    type: str | None = None,  # noqa: A002 (the word of options files)
    **overrides: Any,
) -> nn.Module:
    """Build the network that a file holds and load all of its weights.

    The network that the file names (``basicsr convert`` writes it into safetensors, training into
    its checkpoints) takes precedence over what names and shapes of the tensors tell.

    Args:
        path: A checkpoint, see :func:`cir_host.checkpoint.read_checkpoint`.
        key: The container's key; without it EMA weights are preferred.
        type: The network's name in BasicSR's registry, where it cannot be recognised.
        overrides: Arguments of the network, in addition to or instead of those recognised.

    Returns:
        The network in evaluation mode, on the CPU, in float32.

    Raises:
        UserError: The file cannot be read, its network is not known, or its weights do not fit or
            hold NaN or infinity.
    """
    file, source = read_checkpoint(path, key), printable(str(path))
    found = described(file.metadata) or recognise(file.state)
    if type is not None and (found is None or found.type != type):
        entry = entry_named(type)
        found = (entry and _recognise_as(entry, file.state)) or NetworkOptions(type, {})
    if found is None:
        if (part := about_part(file.state)) is not None:
            raise UserError(f"{source}: {part}")
        several = " and ".join(options.type for options in candidates(file.state))
        reason = f"{several} all have" if several else "no network known here has"
        raise UserError(
            f"{source}: {reason} these tensors ({some_of(file.state)}); give type and arguments;"
            f" known are {', '.join(entry.name for entry in entries())}"
        )
    options = NetworkOptions(found.type, {**found.arguments, **overrides})
    network = options.build()
    assumed = {name: value for name, value in found.assumed.items() if name not in overrides}
    if assumed:
        _logger.warning("%s", about_assumed(replace(found, assumed=assumed), source))
    load_into(network, file.state, True, source, testing=True)
    return network.eval()


def joined(states: Sequence[State]) -> dict[str, Tensor] | None:
    """Join the state dicts of a network that is published in several files.

    Returns:
        The state dict of the whole network; None if these are not all parts of one network, each
        once.
    """
    parts = [(part, state) for state in states if (part := _part(state)) is not None]
    names = {entry.name for (entry, _), _ in parts}
    wanted = sorted(parts[0][0][0].parts) if len(names) == 1 else []
    if len(parts) != len(states) or sorted(prefix for (_, prefix), _ in parts) != wanted:
        return None
    return {prefix + name: state[name] for (_, prefix), state in parts for name in state}


def about_part(state: State) -> str | None:
    """Say that a state dict is a part of a network, and how to join it; None if it is no part."""
    part = _part(state)
    if part is None:
        return None
    entry, prefix = part
    others = " and ".join(other.removesuffix(".") for other in entry.parts if other != prefix)
    return (
        f"holds the part {prefix.removesuffix('.')} of {entry.name} and lacks {others}; join the"
        " files: basicsr convert FILE FILE -o NEW.safetensors"
    )


def _part(state: State) -> tuple[Entry, str] | None:
    """Return the network that a state dict is a part of, and the prefix of the part."""
    pairs = ((entry, prefix, name) for entry in entries() for prefix, name in entry.parts.items())
    return next(((entry, prefix) for entry, prefix, name in pairs if name in state), None)


def about_assumed(options: NetworkOptions, source: str) -> str:
    """Say which values were assumed for a recognised network, and how to give others.

    Args:
        options: The network.
        source: The name of its file.
    """
    section = NetworkOptions(options.type, options.assumed)
    return (
        f"{source}: weights of {options.type} do not tell {_listed(options.assumed)}; assumed is"
        f" {section}. If they were trained with other values, store these in a file:"
        f" basicsr convert {source} --network '{section}' -o NEW.safetensors"
    )


def _listed(names: Iterable[str]) -> str:
    *others, last = names
    return f"{', '.join(others)} and {last}" if others else last


def described(metadata: Mapping[str, str]) -> NetworkOptions | None:
    """Return the network that a file names in its metadata, None if it names none."""
    with suppress(LookupError, ValueError, RecursionError):
        section = json.loads(metadata[NETWORK_KEY])
        if isinstance(section, dict):
            return NetworkOptions(str(section.pop("type")), section)
    return None


def _recognise_as(entry: Entry, state: State) -> NetworkOptions | None:
    """Return the network if it is this one; None if not, or if the state dict lacks tensors."""
    with suppress(LookupError, ValueError, ArithmeticError):
        arguments = entry.arguments_from(state)
        if arguments is not None:
            told = {**entry.defaults, **arguments}
            assumed = {name: told[name] for name in entry.untold}
            differing = _without_defaults(entry, arguments)
            return NetworkOptions(_registered_name(entry), differing, assumed)
    return None


def _registered_name(entry: Entry) -> str:
    """Return the network's name in BasicSR's registry, see :func:`cir_arch.network.entry_named`."""
    registry = sys.modules.get("basicsr.utils.registry")
    if registry is None or entry.package == "basicsr":
        return entry.name
    network = entry.load()
    return next((name for name, held in registry.ARCH_REGISTRY if held is network), entry.name)


def _without_defaults(entry: Entry, arguments: Mapping[str, Any]) -> dict[str, Any]:
    defaults = entry.defaults
    return {k: v for k, v in arguments.items() if k not in defaults or not _same(v, defaults[k])}


def _same(value: Any, default: Any) -> bool:
    if isinstance(value, list):
        return isinstance(default, Sequence) and value == list(default)
    return bool(value == default)


def _yaml(value: Any) -> str:
    """Return a value in YAML's flow style, without quotes around text that needs none."""
    text = json.dumps(value)
    return value if isinstance(value, str) and value.isidentifier() else text


@register_describer
def _looks_like(state: State) -> str | None:
    """Return a hint for the loader's messages."""
    found = recognise(state)
    if found is None and (part := about_part(state)) is not None:
        return f"it {part}"
    return None if found is None else f"it looks like {found.type}; try network_g: {found}"
