"""CODiff's checkpoints: what they hold, and how they become a network.

``codiff.pkl`` holds what was trained: low-rank changes of UNet and VAE, the UNet's first layer and
the projection of the tokens. The base and CaVE come from their own files. A converted file holds
all of it, see :mod:`cir_diffusion.converted`.
"""

import zipfile
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from cir_arch.cave_arch import CaVEEncoder
from cir_arch.layers.residual_unet import residual_sizes
from cir_arch.recognition import recognise
from cir_arch.state_dict import entries_below
from cir_diffusion import lora
from cir_diffusion.base import WANTED, Base, load_base
from cir_diffusion.codiff import CODiff
from cir_diffusion.converted import KEY, load_converted
from cir_host.checkpoint import locate, read_checkpoint
from cir_host.checkpoint_files import read_file, some_of
from cir_host.errors import UserError
from cir_host.file_names import printable
from cir_host.loading import load_into, refuse_not_finite

Kind: TypeAlias = Literal["trained parts", "converted"]
"""Of CODiff's files."""

_HEAD = 1 << 20
"""Bytes at the beginning of a pickle that hold all names, in front of the numbers."""

_PARTS = ("state_dict_unet", "state_dict_vae", "proj")

_FIRST_LAYER = "conv_in.base_layer."
"""Prefix of the UNet's first layer, which was trained and replaces that of the base."""


@dataclass(frozen=True)
class TrainedParts:
    """What a checkpoint of CODiff holds, by the names of the release."""

    state_dict_unet: Mapping[str, Tensor]
    """Low-rank changes, and ``conv_in.base_layer``."""
    state_dict_vae: Mapping[str, Tensor]
    """Low-rank changes."""
    proj: Mapping[str, Tensor]
    """``weight`` (context, embedding) and ``bias`` of the projection of the tokens."""

    @property
    def context(self) -> int:
        """Width of the tokens that the UNet gets."""
        return len(self.proj["weight"])

    @property
    def embedding(self) -> int:
        """Width of the tokens that CaVE gives."""
        return self.proj["weight"].shape[1]


def read_trained_parts(path: Path) -> TrainedParts:
    """Read a checkpoint as the release and the training here write it, onto the CPU.

    Raises:
        UserError: The file cannot be read, is damaged, or is of another model.
    """
    source = printable(str(path))
    content = read_file(path).content
    held: Mapping[Any, Any] = content if isinstance(content, Mapping) else {}
    if "state_dict_unet" in held and "proj" not in held:
        raise UserError(
            f"{source}: is OSEDiff, which needs a text prompt from networks that are not"
            " supported here; give CODiff's checkpoint"
        )
    for part in _PARTS:
        if not _is_state(held.get(part)):
            raise UserError(f"{source}: is no checkpoint of CODiff; it lacks {part}")
        refuse_not_finite(held[part], source)
    parts = TrainedParts(*(held[part] for part in _PARTS))
    if {name: value.ndim for name, value in parts.proj.items()} != {"weight": 2, "bias": 1}:
        raise UserError(f"{source}: proj in it is not a weight matrix and a bias")
    return parts


def kind_of(path: Path) -> Kind | None:
    """Tell whether a file is one of CODiff's, from its beginning alone.

    Returns:
        ``trained parts``, as in ``codiff.pkl``, or ``converted``; None for all other files, also
        those that cannot be read.
    """
    with suppress(OSError, SafetensorError, zipfile.BadZipFile):
        if not path.is_file():  # opening a pipe may block forever
            return None
        with path.open("rb") as file:
            head = file.read(_HEAD)
        if head[8:9] == b"{":
            with safe_open(path, framework="pt") as tensors:
                return "converted" if KEY in (tensors.metadata() or {}) else None
        if head.startswith(b"PK"):
            head = _pickle_in(path)
        return "trained parts" if b"state_dict_unet" in head else None
    return None


def load_codiff(
    path: Path | str,
    base: Path | str | None = None,
    cave: Path | str | None = None,
    **options: Any,
) -> CODiff:
    """Build CODiff from its checkpoint and the files that it builds on.

    Args:
        path: ``codiff.pkl``, or a converted file.
        base: For ``codiff.pkl``: the folder of Stable Diffusion 2.1, see
            :data:`cir_diffusion.base.WANTED`.
        cave: For ``codiff.pkl``: checkpoint of CaVE; None: ``cave.pth`` beside ``path``.
        options: Keyword arguments of :class:`cir_diffusion.codiff.CODiff`.

    Returns:
        The network in evaluation mode, on the CPU, in float32; it is not meant to be trained.

    Raises:
        UserError: A file is missing, damaged or of another kind.
    """
    if kind_of(Path(path)) == "converted":
        if base is not None or cave is not None:
            raise UserError(
                f"{printable(str(path))}: holds its base and CaVE; leave out --base and --cave"
            )
        return load_converted(Path(path), **options).requires_grad_(False).eval()
    parts = read_trained_parts(Path(path))
    if base is None:
        raise UserError(
            f"{printable(str(path))}: holds only what CODiff changes in its base; give --base"
            f" FOLDER: {WANTED}"
        )
    beside = Path(path).with_name("cave.pth")
    encoder = load_cave(beside if cave is None else Path(cave), parts.embedding)
    network = assemble(parts, load_base(Path(base), parts.context), encoder, str(path), **options)
    return network.requires_grad_(False).eval()


def assemble(
    parts: TrainedParts, base: Base, cave: CaVEEncoder, source: str, **options: Any
) -> CODiff:
    """Merge what was trained into the base, whose weights change, and put the parts together.

    Args:
        parts: Of the checkpoint.
        base: UNet and VAE as published.
        cave: The encoder that makes the tokens.
        source: The checkpoint's name for messages.
        options: Keyword arguments of :class:`cir_diffusion.codiff.CODiff`.

    Raises:
        UserError: The checkpoint does not fit the base.
    """
    source = printable(source)
    first = base.unet.get_submodule("conv_in")
    load_into(first, entries_below(parts.state_dict_unet, _FIRST_LAYER), True, source)
    for network, state, layers in (
        (base.unet, parts.state_dict_unet, lora.layers_of_unet(base.unet)),
        (base.vae, parts.state_dict_vae, lora.layers_of_vae(base.vae)),
    ):
        changes = lora.low_rank_changes(state, source)
        _check_complete(changes, layers, type(network).__name__, source)
        lora.merge(network, changes, source)
    proj = nn.Linear(parts.embedding, parts.context)
    load_into(proj, parts.proj, True, source)
    return CODiff(base, cave, proj, **options)


def load_cave(path: Path, embedding: int | None = None) -> CaVEEncoder:
    """Load the encoder of CaVE.

    Args:
        path: A checkpoint of CaVE, whole or without its decoder.
        embedding: Width that its tokens must have; None: any width.

    Raises:
        UserError: The file is missing or damaged, of another network, or has another width.
    """
    source = printable(str(path))
    if not locate(path).exists():
        raise UserError(
            f"{source}: no such file; CODiff needs the checkpoint of CaVE, cave.pth of its"
            " release: put it there, or give its path (restore, convert: --cave FILE)"
        )
    state = read_checkpoint(path).state
    found = recognise(state)
    if found is None or found.type.removesuffix("_cir") not in ("CaVE", "CaVEQuality"):
        what = "an unknown network" if found is None else found.type
        raise UserError(f"{source}: is {what}, not CaVE; give cave.pth of CODiff's release")
    sizes = residual_sizes(state)
    if embedding is not None and sizes["nc"][3] != embedding:
        raise UserError(
            f"{source}: this CaVE gives tokens of {sizes['nc'][3]} numbers, and the checkpoint"
            f" needs {embedding}; give the one that it was trained with"
        )
    encoder = CaVEEncoder(**sizes)
    load_into(encoder, state, True, source, testing=True)
    return encoder.eval()


def _pickle_in(path: Path) -> bytes:
    """Return the beginning of the pickle in a file of ``torch.save``, which is a zip archive."""
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            if name.endswith("/data.pkl"):
                with archive.open(name) as file:
                    return file.read(_HEAD)
    return b""


def _is_state(value: Any) -> bool:
    tensors = value.values() if isinstance(value, Mapping) else ()
    return bool(tensors) and all(isinstance(tensor, Tensor) for tensor in tensors)


def _check_complete(
    changes: Iterable[str], layers: Iterable[str], network: str, source: str
) -> None:
    if missing := sorted(set(layers) - set(changes)):
        raise UserError(f"{source}: lacks the changes of {some_of(missing)} in {network}")
