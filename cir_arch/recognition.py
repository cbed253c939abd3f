"""Which network a state dict is of, with which arguments; and a network from a file in one call."""

import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from basicsr.utils.registry import ARCH_REGISTRY
from torch import nn
from torch.overrides import TorchFunctionMode

import cir_weights  # noqa: F401 (checkpoints may be named by the names of ours)
from cir_arch import basicsr_networks
from cir_arch.cave_arch import CaVE, CaVEQuality
from cir_arch.fbcnn_arch import FBCNN
from cir_arch.hat_arch import HAT
from cir_arch.hft_arch import HFT
from cir_arch.promptcir_arch import PromptCIR
from cir_arch.promptir_arch import PromptIR
from cir_arch.safmn_bcie_arch import SAFMN_BCIE
from cir_arch.scunet_arch import SCUNet
from cir_arch.state_dict import State
from cir_arch.ucip_arch import UCIP
from cir_arch.unifyformer_arch import UnifyFormer
from cir_host import checkpoint
from cir_host.checkpoint import NETWORK_KEY, load_into, read_checkpoint
from cir_host.checkpoint_files import printable, some_of
from cir_host.errors import UserError
from cir_host.lookup import look_up

OURS = (
    PromptCIR,
    PromptIR,
    UCIP,
    CaVE,
    CaVEQuality,
    FBCNN,
    HFT,
    HAT,
    SCUNet,
    UnifyFormer,
    SAFMN_BCIE,
)
"""In the order in which they are asked: HFT, which is a HAT, before HAT."""


def _registered_name(network: type[nn.Module]) -> str:
    """Its own name, unless another package held that first."""
    return next((n for n, held in ARCH_REGISTRY if held is network), network.__name__)


_RECOGNISERS: dict[str, Callable[[State], dict[str, Any] | None]] = {
    **{_registered_name(network): network.arguments_from for network in OURS},
    **basicsr_networks.RECOGNISERS,
}


@dataclass(frozen=True)
class NetworkOptions:
    """A network as an options file names it."""

    type: str
    """Its name in BasicSR's registry."""
    arguments: Mapping[str, Any]
    """Those that differ from the defaults."""

    def __str__(self) -> str:
        """The section ``network_g`` in one line."""
        entries = {"type": self.type, **self.arguments}
        return "{" + ", ".join(f"{k}: {_yaml(v)}" for k, v in entries.items()) + "}"

    def build(self) -> nn.Module:
        """Build the network, with new weights.

        Raises:
            UserError: The registry has no such network, or it cannot have these arguments.
        """
        cls = look_up(ARCH_REGISTRY, self.type, "type")
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


class _RatesOnTheCPU(TorchFunctionMode):
    """Keep ``linspace`` off the meta device: SwinIR's constructor reads numbers off it."""

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
    """Tell from names and shapes alone which network a state dict is of.

    Arguments that change no shape cannot be told (each network's ``arguments_from`` names them in
    a comment) and are left at their defaults; SwinIR's ``img_range`` follows a rule, see
    :func:`cir_arch.basicsr_networks.swinir_arguments`.

    Returns:
        The network with the arguments that differ from its defaults; None if it is of none known.
    """
    for name in _RECOGNISERS:
        found = _recognise_as(name, state)
        if found is not None:
            return found
    return None


def load_network(
    path: Path | str,
    key: str | None = None,
    type: str | None = None,  # noqa: A002 (the word of options files)
    **overrides: Any,
) -> nn.Module:
    """Build the network that a file holds and load it, whole.

    What the file says of itself (``basicsr convert`` writes it into safetensors, training into its
    checkpoints) goes before what its names and shapes tell.

    Args:
        path: A checkpoint, see :func:`cir_host.checkpoint.read_checkpoint`.
        key: The container's key; without it averaged weights are preferred.
        type: The network's name in BasicSR's registry, where it cannot be told.
        overrides: Arguments of the network, beside or instead of those that the file tells.

    Returns:
        The network in evaluation mode, on the CPU, in float32.

    Raises:
        UserError: The file cannot be read, its network is not known, or its weights do not fit or
            hold NaN or infinity.
    """
    file, source = read_checkpoint(path, key), printable(str(path))
    found = described(file.metadata) or recognise(file.state)
    if type is not None and (found is None or found.type != type):
        found = _recognise_as(type, file.state) or NetworkOptions(type, {})
    if found is None:
        raise UserError(
            f"{source}: a network that is not known here (its tensors: {some_of(file.state)}); give"
            f" its type and arguments, or one of {', '.join(_RECOGNISERS)}"
        )
    options = NetworkOptions(found.type, {**found.arguments, **overrides})
    network = options.build()
    load_into(network, file.state, True, source, testing=True)
    return network.eval()


def described(metadata: Mapping[str, str]) -> NetworkOptions | None:
    """Return what a file of ours says of its network, None if it says nothing."""
    with suppress(LookupError, ValueError, RecursionError):
        section = json.loads(metadata[NETWORK_KEY])
        if isinstance(section, dict):
            return NetworkOptions(str(section.pop("type")), section)
    return None


def _recognise_as(name: str, state: State) -> NetworkOptions | None:
    """Return the network if it is the one of this name; None also where its tensors lack some."""
    if name in _RECOGNISERS:
        with suppress(LookupError, ValueError, ArithmeticError):
            arguments = _RECOGNISERS[name](state)
            if arguments is not None:
                return NetworkOptions(name, _without_defaults(name, arguments))
    return None


def _without_defaults(name: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    parameters = inspect.signature(ARCH_REGISTRY.get(name)).parameters
    return {k: v for k, v in arguments.items() if not _same(v, parameters[k].default)}


def _same(value: Any, default: Any) -> bool:
    if isinstance(value, list):
        return isinstance(default, Sequence) and value == list(default)
    return bool(value == default)


def _yaml(value: Any) -> str:
    """A value in YAML's flow style, which JSON is; but text that needs no quotes has none."""
    text = json.dumps(value)
    return value if isinstance(value, str) and value.isidentifier() else text


def _looks_like(state: State) -> str | None:
    """For the loader's messages."""
    found = recognise(state)
    return None if found is None else f"it looks like {found.type}; try network_g: {found}"


checkpoint.describers.append(_looks_like)
