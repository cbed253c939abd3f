"""The base class of all networks, and the one entry that makes a class known everywhere.

A network is one file: a subclass of :class:`RestorationNetwork` behind the decorator
:func:`network`. Registration with BasicSR, recognition of checkpoints, ``basicsr models``, the
README's table, spandrel, ONNX and the tests over all networks read what is stated there.
"""

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeVar

from torch import Tensor, nn

from cir_arch.facts import InputKind, NetworkFacts
from cir_arch.state_dict import State
from cir_host.ownership import package_of
from cir_host.registration import register


@dataclass(frozen=True)
class Weights:
    """Published weights. They belong to their authors, under their licence."""

    link: str
    """The page that offers the file."""
    file: str
    container: str
    """What the file holds: a key of BasicSR's, or a ``state dict`` alone."""
    licence: str
    trained_for: str
    """What the authors trained it for: task, codec, qualities, scale."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A network as the package knows it, without building it."""

    name: str
    package: str
    """The top-level package of its class."""
    load: Callable[[], type[nn.Module]]
    """Returns the class; imports BasicSR where the class is BasicSR's."""
    defaults: Mapping[str, Any]
    """Default values of the constructor's arguments, at least of those that can be recognised."""
    arguments_from: Callable[[State], dict[str, Any] | None]
    paper: str
    """Markdown: authors and venue with a link, and what the network is for."""
    gmacs: float
    """Multiplications for one 128 x 128 image at the published size, in units of 1e9.

    Those of convolutions and matrix products, attention included; not those of norms, activations
    and interpolation (including UCIP's look-ups), nor of parts that do not change the image, such
    as CaVE's prediction of the quality. 0 for a network that returns its input.
    """
    small: Mapping[str, Any]
    """Arguments of a small variant, for tests."""
    published: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of the published size, where they are not the defaults."""
    weights: tuple[Weights, ...] = ()
    in_spandrel: bool | Callable[[Mapping[str, Any]], bool] = False
    """This and the next four are arguments of :func:`network`."""
    unused_parameters: str = ""
    onnx_any_size: bool = False
    untold: tuple[str, ...] = ()
    parts: Mapping[str, str] = field(default_factory=dict)
    bases: tuple[str, ...] = ()
    """Networks that the class extends. A state dict that fits both is of the class."""
    input_kind: InputKind = "pixels"
    """That of its facts."""
    described: tuple[int, NetworkFacts] | None = None
    """Parameters and facts at the published size, where building it would import BasicSR."""

    @property
    def restores(self) -> bool:
        """Whether the network changes its input."""
        return self.gmacs > 0

    def is_in_spandrel(self, arguments: Mapping[str, Any]) -> bool:
        """Whether spandrel itself loads the network that has these arguments."""
        return self.in_spandrel(arguments) if callable(self.in_spandrel) else self.in_spandrel


_entries: dict[str, Entry] = {}


def add(entry: Entry) -> None:
    """Make a network known. The same class, imported again, replaces its entry.

    Raises:
        RuntimeError: Another package has a network of this name.
    """
    holder = _entries.get(entry.name)
    if holder is not None and holder.package != entry.package:
        raise RuntimeError(
            f"two networks are named {entry.name}: in {holder.package} and in {entry.package}"
        )
    _entries[entry.name] = entry


def entries() -> list[Entry]:
    """Return all networks by name; those of BasicSR last."""
    return sorted(_entries.values(), key=lambda e: (e.package == "basicsr", e.name.casefold()))


def entry_named(name: str) -> Entry | None:
    """Return the entry of a name in BasicSR's registry, None if it is no network known here.

    ``NAME_cir`` is our NAME where another package holds NAME, see
    :func:`cir_host.registration.register`.
    """
    return _entries.get(name) or _entries.get(name.removesuffix("_cir"))


class RestorationNetwork(nn.Module, ABC):
    """Base of every network. Images are (B, C, H, W) with values in [0, 1], of any size."""

    entry: ClassVar[Entry]
    """Set by :func:`network`."""
    input_kind: ClassVar[InputKind] = "pixels"
    """That of its facts."""

    @property
    @abstractmethod
    def facts(self) -> NetworkFacts:
        """What tools need to know about this network."""

    @classmethod
    @abstractmethod
    def arguments_from(cls, state: State) -> dict[str, Any] | None:
        """Read the constructor's arguments off the names and shapes of a state dict.

        Returns:
            Every argument that changes a shape or a name; None if the state dict is of another
            network. A ``LookupError``, ``ValueError`` or ``ArithmeticError`` counts as None.
        """

    def tables_for_others(self) -> dict[str, Tensor]:
        """Return buffers of the release that follow from the arguments and that ours has not.

        Other programs expect them in a file; loading ignores them.
        """
        return {}

    @abstractmethod
    def forward(self, x: Tensor) -> Any:
        """Restore images (B, C, H, W); returns only the images unless more is requested."""


N = TypeVar("N", bound=RestorationNetwork)


def network(
    *,
    paper: str,
    gmacs: float,
    small: Mapping[str, Any],
    weights: tuple[Weights, ...] = (),
    in_spandrel: bool | Callable[[Mapping[str, Any]], bool] = False,
    unused_parameters: str = "",
    onnx_any_size: bool = False,
    untold: tuple[str, ...] = (),
    parts: Mapping[str, str] | None = None,
) -> Callable[[type[N]], type[N]]:
    """Return a decorator that makes a network known; its name is the name of the class.

    Args:
        paper: Markdown for the table of networks: authors and venue with a link, what it is for.
        gmacs: Multiplications for one 128 x 128 image with the default arguments, in units of 1e9.
            A test states the right number.
        small: Arguments of a variant that runs in milliseconds, for tests.
        weights: Where weights are published.
        in_spandrel: Whether spandrel has the network, or which arguments spandrel's has. All other
            networks are offered to it by :mod:`cir_arch.spandrel_support`.
        unused_parameters: Regular expression for the names of parameters that do not change the
            restored image. Distributed training with any needs ``find_unused_parameters: true``.
        onnx_any_size: Whether ``basicsr convert`` can write ONNX for images of any size.
        untold: Arguments that have several published values but change no shape, so that no file
            tells them. Where weights are recognised, the values taken for these are said.
        parts: Where the network is published in several files: the prefix that the names in each
            file have in the whole network, and a name, without it, by which the file is known.
    """

    def decorate(cls: type[N]) -> type[N]:
        parameters = inspect.signature(cls).parameters.values()
        cls.entry = Entry(
            name=cls.__name__,
            package=package_of(cls),
            load=lambda: cls,
            defaults={parameter.name: parameter.default for parameter in parameters},
            arguments_from=cls.arguments_from,
            paper=paper,
            gmacs=gmacs,
            small=small,
            weights=weights,
            in_spandrel=in_spandrel,
            unused_parameters=unused_parameters,
            onnx_any_size=onnx_any_size,
            untold=untold,
            parts=parts or {},
            input_kind=cls.input_kind,
            bases=tuple(base.__name__ for base in cls.__mro__[1:] if base.__name__ in _entries),
        )
        add(cls.entry)
        return register("arch")(cls)

    return decorate
