"""Loading weights into networks, with a report of what fits and what is not finite."""

import logging
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import Any, TypeAlias
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from cir_host.checkpoint import BY_BASICSR, read_checkpoint
from cir_host.checkpoint_files import shown, some_of
from cir_host.errors import UserError
from cir_host.file_names import printable

_logger = logging.getLogger("basicsr")

_DERIVED_MASKS = ("attn_mask",)
"""Float buffers that the constructor computes (the shift masks of SwinIR and HAT)."""


Describer: TypeAlias = Callable[[Mapping[str, Tensor]], str | None]
"""Says what network a state dict looks like, or None if it does not know it."""

_describers: list[Describer] = []

_logged: WeakKeyDictionary[nn.Module, tuple[str, "LoadReport"]] = WeakKeyDictionary()
"""What :func:`log_load` said of each network last."""


def register_describer(describe: Describer) -> Describer:
    """Let a package that knows networks add a hint to the errors of loading; a decorator.

    This package lies below the ones that know networks, so it cannot import them.
    """
    _describers.append(describe)
    return describe


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

    The EMA network usually gets the same as ``net_g``, and its line then says only that.

    Args:
        model: The model whose attribute the network is, such as ``net_g``.
        net: The network, unwrapped.
        report: As :func:`load_into` returns it.
        source: The file, and the key within it.
    """
    nets = {
        name: model.get_bare_model(value)
        for name, value in vars(model).items()
        if isinstance(value, nn.Module)
    }
    kind = type(net).__name__
    network = next((f"{name} ({kind})" for name, value in nets.items() if value is net), kind)
    _logged[net] = source, report
    if net is nets.get("net_g_ema") and _logged.get(nets["net_g"]) == _logged[net]:
        _logger.info("%s: loaded from %s, like net_g (%s)", network, source, kind)
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
    return key if key not in (None, *BY_BASICSR) else param_key


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
