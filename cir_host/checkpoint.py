"""Reading checkpoints of any format safely, and loading them into networks with a report."""

import logging
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, wraps
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from cir_host.checkpoint_files import read_file, shown, some_of
from cir_host.errors import UserError
from cir_host.file_names import printable

_logger = logging.getLogger("basicsr")

_BY_BASICSR = ("params_ema", "params")
"""Keys of BasicSR's containers. BasicSR requests these by default, so they are preferences."""

NETWORK_KEY = "network_g"
"""Key of the network's section of the options, stored as JSON."""

_CONTAINER_KEYS = (*_BY_BASICSR, "state_dict", "model_state_dict", "model", "net", "sd")

_WRAPPERS = ("module.", "_orig_mod.")
"""Prefixes that parallel training and ``torch.compile`` add to the names of tensors."""

_OWNERS = ("net.", "netG.", "net_g.", "model.", "model_g.", "generator.")
"""Prefixes of the network in a module that trains it, such as Lightning's."""

_PLAIN = (int, float, str, type(None))
"""Values such as ``epoch: 3`` that may stand beside the tensors of a state dict; ignored."""

_DERIVED_MASKS = ("attn_mask",)
"""Float buffers that the constructor computes (the shift masks of SwinIR and HAT)."""

_LARGEST_REPEATED = 1 << 30
"""Most bytes of a tensor that is larger than its storage; loading a larger one may fill memory."""


Finder: TypeAlias = Callable[[Path], Path | None]
"""Returns the checkpoint that a name stands for, or None if the name is not its own."""

Describer: TypeAlias = Callable[[Mapping[str, Tensor]], str | None]
"""Says what network a state dict looks like, or None if it does not know it."""

_finders: list[Finder] = []
_describers: list[Describer] = []


def register_finder(find: Finder) -> Finder:
    """Let a package that ships weights find them by name; a decorator.

    This package lies below the ones that hold weights and know networks, so it cannot import them.
    """
    _finders.append(find)
    return find


def register_describer(describe: Describer) -> Describer:
    """Let a package that knows networks add a hint to the errors of loading; a decorator."""
    _describers.append(describe)
    return describe


@dataclass(frozen=True)
class Checkpoint:
    """The weights in a file, and how it holds them."""

    state: dict[str, Tensor]
    """Tensors by name, without prefixes of wrappers."""
    container: str
    """``safetensors``, ``zip`` (torch.save since 1.6) or ``legacy`` (before)."""
    keys: tuple[str, ...]
    """Keys of the state dicts in the file; empty if the file is a state dict itself."""
    key: str | None
    """The key that ``state`` comes from."""
    prefix: str
    """The prefix that was removed from the names."""
    metadata: Mapping[str, str]
    """Text that is stored beside the tensors."""
    member: str | None = None
    """The file within the zip archive, if the given file was one."""


@dataclass(frozen=True)
class LoadReport:
    """Which tensors of a checkpoint were loaded into a network.

    Indices, counters and masks, which a network computes itself, are not counted.
    """

    loaded: tuple[str, ...]
    missing: tuple[str, ...]
    """In the network, not in the file."""
    unexpected: tuple[str, ...]
    """In the file, not in the network."""
    mismatching: tuple[str, ...]
    """In both, but of different shapes; with the shapes."""
    parameters: int
    """Parameters that were loaded (scalars)."""
    all_parameters: int
    """Parameters of the network (scalars)."""

    @property
    def complete(self) -> bool:
        """Whether every tensor of the network was loaded."""
        return not self.missing and not self.mismatching

    def __str__(self) -> str:
        tensors = len(self.loaded) + len(self.missing) + len(self.mismatching)
        partly = "" if self.parameters == self.all_parameters else f"{self.parameters:,} of "
        parameters = f"{partly}{self.all_parameters:,} parameters"
        parts = [f"{len(self.loaded)} of {tensors} tensors ({parameters}) fit"]
        for kind in ("missing", "unexpected", "mismatching"):
            names = getattr(self, kind)
            if names:
                parts.append(f"{len(names)} {kind} ({some_of(names)})")
        return ", ".join(parts)


def locate(path: Path) -> Path:
    """Return the path itself if it exists, else the bundled weights of that name, if any.

    Raises:
        UserError: The path does not exist, and looks like the name of bundled weights that are not
            there either.
    """
    with suppress(OSError):  # an impossible file name; opening it will say why
        if not path.exists():
            return next((file for find in _finders if (file := find(path))), path)
    return path


def read_checkpoint(
    path: Path | str, key: str | None = None, names: Iterable[str] = ()
) -> Checkpoint:
    """Read weights from a file onto the CPU, without executing anything in it.

    Args:
        path: A file of ``torch.save``, old or new format, or of safetensors, with any suffix; or a
            zip archive with one such file in it. It holds a state dict, which may include plain
            values, or a container with one under ``params_ema``, ``params``, ``state_dict``,
            ``model_state_dict``, ``model``, ``net``, ``sd`` or its only key; the first of these
            that exists is used, and searched in the same way. If there is no such file, a name
            without a folder (``promptcir_s_x1`` or ``promptcir_s_x1.safetensors``) stands for
            bundled weights.
        key: The container's key. ``params`` and ``params_ema`` are preferences, as BasicSR requests
            one of them by default; any other key must exist.
        names: The names in the state dict of the network that will get the weights. A usual prefix
            of all names, such as ``net.``, is removed unless these names have it too.

    Raises:
        UserError: The file is missing, damaged, not a checkpoint, or holds other objects than
            tensors and plain values; or the key does not exist.

    Example:
        >>> import cir_weights  # so that bundled weights are found by name
        >>> read_checkpoint("promptcir_s_x1").container
        'safetensors'
    """
    path = locate(Path(path))
    source = printable(str(path))
    file = read_file(path)
    state, found = _state_dict_in(file.content, key, source)
    keys = tuple(str(k) for k, v in file.content.items() if isinstance(v, Mapping) and _is_state(v))
    if not _is_state(state):
        reason = _why_no_state(file.content, state, keys)
        raise UserError(f"{source}: no state dict found; {reason}. {_contents(file.content)}")
    tensors = {name: value for name, value in state.items() if isinstance(value, Tensor)}
    for name, value in tensors.items():
        if (what := _unusable(value)) is not None:
            raise UserError(f"{source}: {shown(name)} in it {what}")
    bare, prefix = _without_prefixes(
        tensors, set(names), "pytorch-lightning_version" in file.content
    )
    return Checkpoint(bare, file.container, keys, found, prefix, file.metadata, file.member)


def read_state_dict(path: Path | str, key: str | None = None) -> dict[str, Tensor]:
    """Return the tensors of a file by name; see :func:`read_checkpoint`."""
    return read_checkpoint(path, key).state


def load_into(
    net: nn.Module, state: Mapping[str, Tensor], strict: bool, source: str, *, testing: bool = False
) -> LoadReport:
    """Load a state dict into a network.

    Integer and boolean buffers (indices, counters) and masks that the network computes itself count
    as neither missing nor unexpected.

    Args:
        net: The network, unwrapped.
        state: As :func:`read_checkpoint` returns it.
        strict: Require that names and shapes match exactly. Otherwise load the tensors that fit.
        source: The file's name for messages.
        testing: Whether the network will be measured. Every tensor of the network must then be
            loaded, strict or not.

    Returns:
        What was loaded; :func:`log_load` puts it into the log.

    Raises:
        UserError: Names or shapes differ and ``strict`` or ``testing`` forbids it, or nothing fits;
            or loaded tensors hold NaN or infinity.
    """
    present = net.state_dict()
    parameters = {name for name, _ in net.named_parameters()}
    weights = {n for n, value in present.items() if n in parameters or not _is_derived(n, value)}
    mismatching = {
        name: difference
        for name, value in state.items()
        if name in present
        and (difference := _difference(name, value, present[name], name in parameters))
    }
    fitting = {name: value for name, value in state.items() if name not in mismatching}
    network = type(net).__name__
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*meta parameter.*is a no-op")
            result = net.load_state_dict(fitting, strict=False)
    except RuntimeError as error:  # from a network that has its own way of loading
        raise UserError(
            f"{source} does not fit {network}: {' '.join(str(error).split())}{_hint(state)}"
        ) from error
    gaps = set(result.missing_keys) | mismatching.keys()
    loaded = tuple(name for name in present if name in weights and name not in gaps)
    report = LoadReport(
        loaded=loaded,
        missing=tuple(n for n in result.missing_keys if n in weights and n not in mismatching),
        unexpected=tuple(n for n in result.unexpected_keys if not _is_derived(n, state[n])),
        mismatching=tuple(text for n, text in mismatching.items() if strict or n in weights),
        parameters=sum(p.numel() for n, p in net.named_parameters() if n in loaded),
        all_parameters=sum(p.numel() for p in net.parameters()),
    )
    if strict and not (report.complete and not report.unexpected):
        advice = (
            "" if testing or not loaded else "; set path.strict_load_g: false to load what fits"
        )
        raise UserError(f"{source} does not fit {network}: {report}{advice}{_hint(state)}")
    if testing and not report.complete:
        raise UserError(
            f"{source} does not fill {network}: {report}; a test would measure a partly random"
            f" network{_hint(state)}"
        )
    if weights and not loaded:
        raise UserError(f"{source}: nothing in it fits {network}: {report}{_hint(state)}")
    refuse_not_finite({name: present[name] for name in loaded}, source)
    return report


def log_load(model: Any, net: nn.Module, report: LoadReport, source: str) -> None:
    """Log what one of a model's networks got, as a warning if tensors are missing.

    The EMA network usually gets the same as ``net_g``; its line then refers to that.

    Args:
        model: The model whose attribute the network is, such as ``net_g``.
        net: The network, unwrapped.
        report: As :func:`load_into` returns it.
        source: The file, and the key within it.
    """
    labels = [
        name
        for name, value in vars(model).items()
        if isinstance(value, nn.Module) and model.get_bare_model(value) is net
    ]
    network = f"{labels[0]} ({type(net).__name__})" if labels else type(net).__name__
    known = vars(model).setdefault("_logged_loads", {})
    same = known.setdefault((type(net), source, report), network)
    if same != network:
        _logger.info("%s: loaded from %s, like %s", network, source, same)
    elif report.complete:
        _logger.info("%s: %s, loaded from %s", network, report, source)
    else:
        _logger.warning("%s is only partly filled: %s, loaded from %s", network, report, source)


def not_finite(tensors: Mapping[str, Tensor]) -> list[str]:
    """Return the names of the weights that hold NaN or infinity.

    Masks that the network computes itself may hold infinity, and tensors on the device ``meta``
    have no values; both are skipped.
    """
    return [
        name
        for name, value in tensors.items()
        if not (value.is_meta or _is_derived(name, value) or _is_finite(value))
    ]


def refuse_not_finite(tensors: Mapping[str, Tensor], source: str) -> None:
    """Refuse weights that hold NaN or infinity.

    Args:
        tensors: As :func:`not_finite` takes them.
        source: The file's name for messages.

    Raises:
        UserError: A weight holds NaN or infinity.
    """
    names = not_finite(tensors)
    if names:
        raise UserError(
            f"{source}: {about_not_finite(names, len(tensors))}; give another checkpoint"
        )


def about_not_finite(names: Sequence[str], number: int) -> str:
    """Say how many of ``number`` tensors hold NaN or infinity, and name the first."""
    return (
        f"{len(names)} of {number} tensors hold NaN or infinity (first {shown(names[0])}): the"
        " file is damaged, or the training diverged"
    )


def load_any_container(original: Callable[..., Any]) -> Callable[..., Any]:
    """Make ``BaseModel.load_network`` read any checkpoint safely, and never test half a network.

    Raises:
        UserError: As :func:`read_state_dict` and :func:`load_into`.
    """

    @wraps(original)
    def load_network(
        self: Any,
        net: nn.Module,
        load_path: str,
        strict: bool = True,
        param_key: str | None = "params",
    ) -> None:
        net = self.get_bare_model(net)
        wanted = _wanted_key(self.opt.get("path") or {}, load_path, param_key)
        file = read_checkpoint(load_path, wanted, net.state_dict())
        source = printable(str(load_path))
        if net is getattr(self, "net_g_ema", None):
            # BasicSR builds it anew, with other random values where the file has none
            net.load_state_dict(self.get_bare_model(self.net_g).state_dict())
        report = load_into(net, file.state, strict, source, testing=not self.is_train)
        part = "" if file.key is None else f", key {shown(file.key)}"
        log_load(self, net, report, source + part)

    return load_network


def _wanted_key(paths: Mapping[str, Any], load_path: str, param_key: str | None) -> str | None:
    """Return the key that the options mean when BasicSR asks for ``param_key``.

    BasicSR asks for ``params`` if the options name no key, and always for ``params_ema`` for its
    EMA network. A resumed run takes each network from its own key. Otherwise a key in the options
    applies to both networks, and without one EMA weights are preferred.
    """
    labels = [
        name.removeprefix("pretrain_network_")
        for name, path in paths.items()
        if name.startswith("pretrain_network_") and path == load_path
    ]
    left_out = paths.get("ignore_resume_networks") or ()
    if paths.get("resume_state") and not any(f"network_{label}" in left_out for label in labels):
        return "params_ema" if param_key == "params_ema" else "params"
    named = [paths.get(f"param_key_{label}") for label in labels]
    key = next((name for name in named if name is not None), None)
    if labels and key is None:
        return None
    return key if key not in (None, *_BY_BASICSR) else param_key


def _is_derived(name: str, tensor: Tensor) -> bool:
    """Whether a buffer is no weight: an index, a counter, or a mask that the network computes."""
    return not _has_fractions(tensor) or name.rpartition(".")[2] in _DERIVED_MASKS


def _has_fractions(tensor: Tensor) -> bool:
    return tensor.is_floating_point() or tensor.is_complex()


def _is_finite(tensor: Tensor) -> bool:
    """Whether a tensor holds neither NaN nor infinity.

    A finite sum proves it, and takes a tenth of the time. The sum of large finite values may
    overflow, so any other sum needs the slow check.
    """
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor.resolve_conj())
    if tensor.itemsize == 1:  # float8, which PyTorch cannot sum
        tensor = tensor.float()
    return bool(tensor.sum().isfinite()) or bool(tensor.isfinite().all())


def _difference(name: str, given: Tensor, own: Tensor, is_parameter: bool) -> str | None:
    """Say why a tensor cannot be loaded into the network's tensor; None if it can."""
    if given.shape != own.shape:
        theirs, ours = _shape(given), _shape(own)
    elif (given.is_complex() and not own.is_complex()) or (
        is_parameter and not _has_fractions(given)
    ):  # PyTorch would silently drop the imaginary part, or load quantised integers as values
        theirs, ours = _dtype(given), _dtype(own)
    else:
        return None
    return f"{name} {theirs} in the file, {ours} in the network"


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "scalar"


def _hint(state: Mapping[str, Tensor]) -> str:
    texts = (describe(state) for describe in _describers)
    return next((f". {text[0].upper()}{text[1:]}" for text in texts if text), "")


def _state_dict_in(
    content: Any, key: str | None, source: str
) -> tuple[Mapping[Any, Any], str | None]:
    """Return the innermost state dict and the key under which the file holds it."""
    if not isinstance(content, Mapping):
        raise UserError(f"{source}: holds a {type(content).__name__}, not a state dict")
    wanted: tuple[str, ...] = _CONTAINER_KEYS if key is None else (key, *_CONTAINER_KEYS)
    if key is not None and key not in _BY_BASICSR:
        if not isinstance(_under(key, content), Mapping):
            raise UserError(f"{source}: holds no state dict {key!r}. {_contents(content)}")
        wanted = (key,)
    state, found = content, None
    seen = set()
    while not _is_state(state) and id(state) not in seen:
        seen.add(id(state))  # a pickle may contain itself
        only = tuple(map(str, state)) if len(state) == 1 else ()
        inner = next((k for k in (*wanted, *only) if isinstance(_under(k, state), Mapping)), None)
        if inner is None:
            break
        state, found = _under(inner, state), found or inner
        wanted = _CONTAINER_KEYS
    return state, found


def _under(key: str, content: Mapping[Any, Any]) -> Any:
    """Return the value of a key, which may be a number in the file."""
    return content.get(key, next((v for k, v in content.items() if str(k) == key), None))


def _is_state(content: Mapping[Any, Any]) -> bool:
    """Whether a mapping holds tensors, and otherwise only plain values."""
    values = [value for value in content.values() if not isinstance(value, _PLAIN)]
    return bool(values) and all(isinstance(value, Tensor) for value in values)


def _why_no_state(whole: Mapping[Any, Any], content: Mapping[Any, Any], keys: Sequence[str]) -> str:
    """Say why a file holds no state dict, in its ``whole`` content or the innermost mapping."""
    if "optimizers" in whole:
        return "it is a training state without a network; give models/net_g_NUMBER.pth instead"
    if "state_dict_unet" in content:
        return "it changes a diffusion model, as CODiff's does; basicsr restore and convert take it"
    if len(keys) > 1:
        return f"it holds several ({some_of(keys)}); give the key of one of them"
    strangers = [name for name, value in content.items() if not isinstance(value, Tensor)]
    objects = [name for name in strangers if not isinstance(content[name], _PLAIN)]
    names = [shown(repr(name)) for name in (*objects, *strangers)]
    return f"{names[0]} in it is not a tensor" if names else "it is empty"


def _unusable(tensor: Tensor) -> str | None:
    """Say why a tensor cannot be a weight; None if it can."""
    if tensor.is_meta:
        return "has a shape but no values (it was saved from the device meta); save it with values"
    kind = None
    if tensor.is_nested:
        kind = "nested"
    elif tensor.layout != torch.strided:
        kind = str(tensor.layout).removeprefix("torch.")
    elif not _is_number(tensor.dtype):
        kind = _dtype(tensor)
    if kind is not None:
        return f"is {kind}, which no network takes; save it as a dense floating-point tensor"
    if tensor.nbytes > max(tensor.untyped_storage().nbytes(), _LARGEST_REPEATED):
        return f"claims {tensor.numel():,} values but stores fewer; save all of them"
    return None


@cache
def _is_number(dtype: torch.dtype) -> bool:
    """Whether a dtype is neither packed nor quantised."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # some are experimental
            torch.empty(1, dtype=dtype).to(torch.complex64)
    except RuntimeError:
        return False
    return True


def _without_prefixes(
    state: Mapping[Any, Tensor], names: Set[str], trained_by_others: bool
) -> tuple[dict[str, Tensor], str]:
    """Remove prefixes of wrappers and owners; return the state dict and the removed prefix.

    If a training program saved more than the network (losses, a discriminator), only the tensors
    under the network's usual prefix are kept.
    """
    prefix = ""
    bare = {str(name): value for name, value in state.items()}
    while True:
        common = [p for p in (*_WRAPPERS, *_OWNERS) if all(name.startswith(p) for name in bare)]
        if not common and trained_by_others:
            owners = [p for p in _OWNERS if any(name.startswith(p) for name in bare)]
            common = owners if len(owners) == 1 else []
        if not common or any(name.startswith(common[0]) for name in names):
            break
        start = common[0]
        prefix += start
        bare = {n.removeprefix(start): v for n, v in bare.items() if n.startswith(start)}
    if not any("_orig_mod." in name for name in names):  # submodules that were compiled alone
        bare = {name.replace("_orig_mod.", ""): value for name, value in bare.items()}
    return {name.removeprefix("module."): value for name, value in bare.items()}, prefix


def _contents(content: Mapping[Any, Any]) -> str:
    names = [shown(repr(name)) for name in content]
    some = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
    return f"The file holds {some or 'nothing'}"
