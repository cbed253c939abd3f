"""``basicsr convert``: write a checkpoint as safetensors, for BasicSR, or as ONNX."""

import argparse
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import torch
import yaml
from torch import Tensor

from cir_arch.export import (
    compare_onnx,
    export_onnx,
    require_onnx,
    save_safetensors,
    tables_for_others,
)
from cir_arch.network import entries
from cir_arch.recognition import (
    NetworkOptions,
    about_assumed,
    described,
    joined,
    load_network,
    recognise,
)
from cir_cli import parsers
from cir_cli.options_files import find
from cir_cli.parsers import CHECKPOINT_SUFFIXES
from cir_diffusion.checkpoint import kind_of, load_codiff
from cir_diffusion.converted import save_converted
from cir_diffusion.licence import PASS_ON
from cir_host.checkpoint import Checkpoint, read_checkpoint
from cir_host.checkpoint_files import reason, shown
from cir_host.errors import UserError
from cir_host.file_names import printable
from cir_host.files import part_of
from cir_host.loading import not_finite, refuse_not_finite


def run(arguments: list[str]) -> None:
    """Convert a checkpoint.

    Raises:
        UserError: The file cannot be read or written, or its network cannot be exported.
    """
    options = parsers.convert().parse_args(arguments)
    output: Path = options.output
    suffix = output.suffix.lower()
    _check_output(output, options.overwrite)
    if any(map(kind_of, options.files)):
        _convert_codiff(options)
        return
    _check_flags(options, to_onnx=suffix == ".onnx")
    source = " and ".join(printable(str(path)) for path in options.files)
    file = _read(options.files, options.key, source)
    refuse_not_finite(file.state, source)
    network = _network(file, options.network, source)
    if suffix == ".onnx":
        _write(output, lambda part: _to_onnx(options.files[0], options, network, part))
        return
    tables = {} if network is None else tables_for_others(network)
    state = {**tables, **(_halved(file.state) if options.half else file.state)}
    if suffix == ".safetensors":
        _write(output, lambda part: save_safetensors(state, part, network))
        print(f"{printable(str(output))}: {_named(network)}")
    else:
        _write(output, lambda part: _save_for_basicsr(state, part))
        print(f"{printable(str(output))}: {_named(network)}, under params")


def _check_flags(options: argparse.Namespace, to_onnx: bool) -> None:
    """Refuse flags that do not suit the files, unless these are CODiff's.

    Raises:
        UserError: A flag has no meaning here, or a package for ONNX is missing.
    """
    for flag in ("base", "cave"):
        if getattr(options, flag) is not None:
            raise UserError(f"--{flag}: only codiff.pkl takes it; leave out the flag")
    if not to_onnx:
        return
    if options.half:
        raise UserError("--half: ONNX files are written in float32; leave out the flag")
    if len(options.files) > 1:
        raise UserError(
            f"-o {printable(str(options.output))}: join the files into a .safetensors first, and"
            " give that"
        )
    require_onnx()


def _convert_codiff(options: argparse.Namespace) -> None:
    output = printable(str(options.output))
    if options.output.suffix.lower() != ".safetensors":
        raise UserError(f"-o {output}: CODiff is written as .safetensors only; change the suffix")
    if len(options.files) > 1:
        raise UserError("CODiff is converted alone; give codiff.pkl, and CaVE by --cave")
    for flag in ("key", "network", "size"):
        if getattr(options, flag) is not None:
            raise UserError(f"--{flag}: CODiff does not take it; leave out the flag")
    network = load_codiff(options.files[0], options.base, options.cave)
    state: Mapping[str, Tensor] = network.state_dict()
    if options.half:
        state = _halved(state)
    _write(options.output, lambda part: save_converted(network, state, part))
    print(f"{output}: CODiff with its base and CaVE. {PASS_ON}")


def _read(paths: list[Path], key: str | None, source: str) -> Checkpoint:
    """Read a checkpoint, or join those that hold the parts of a network.

    Raises:
        UserError: A file cannot be read, or the files are not all parts of one network.
    """
    first, *others = (read_checkpoint(path, key) for path in paths)
    if not others:
        return first
    state = joined([file.state for file in (first, *others)])
    if state is None:
        known = "; ".join(
            f"{entry.name}: {' and '.join(prefix.removesuffix('.') for prefix in entry.parts)}"
            for entry in entries()
            if entry.parts
        )
        raise UserError(
            f"{source}: are not the parts of one network; give one file, or each part once"
            f" ({known})"
        )
    return replace(first, state=state, metadata={})


def _check_output(output: Path, overwrite: bool) -> None:
    name = f"-o {printable(str(output))}"
    if output.suffix.lower() not in CHECKPOINT_SUFFIXES:
        raise UserError(
            f"{name}: the suffix selects the format; give {_either(CHECKPOINT_SUFFIXES)}"
        )
    try:
        if not output.parent.is_dir():
            raise UserError(
                f"{name}: the folder {printable(str(output.parent))} does not exist; make it first"
            )
        if output.is_dir():
            raise UserError(f"{name}: is a folder; give a file")
        if output.exists() and not overwrite:
            raise UserError(f"{name}: exists; give --overwrite to replace it")
    except OSError as error:  # an impossible file name
        raise UserError(f"{name}: {error.strerror or error}") from error


def _network(file: Checkpoint, given: str | None, source: str) -> NetworkOptions | None:
    """Return the network of a file, with every argument that the output should store."""
    named = None if given is None else _given(given)
    if named is None and (in_file := described(file.metadata)) is not None:
        return in_file
    found = recognise(file.state)
    if found is None or (named is not None and named.type != found.type):
        return named
    if named is None and found.assumed:
        print(f"warning: {about_assumed(found, source)}", file=sys.stderr)
    wanted = {} if named is None else named.arguments
    return NetworkOptions(found.type, {**found.arguments, **found.assumed, **wanted})


def _given(text: str) -> NetworkOptions:
    try:
        if text.endswith((".yml", ".yaml")):
            section = yaml.safe_load(find(text).read_text(encoding="utf-8"))["network_g"]
        else:
            section = yaml.safe_load(text)
        return NetworkOptions(section.pop("type"), section)
    except (yaml.YAMLError, AttributeError, TypeError, KeyError) as error:
        raise UserError(
            f"--network {text}: is no network; give a section such as '{{type: HAT, upscale: 2}}',"
            " or an options file with network_g"
        ) from error


def _halved(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a state dict with float32 tensors as float16.

    Raises:
        UserError: A weight is too large for float16.
    """
    halved = {n: v.half() if v.dtype == torch.float32 else v for n, v in state.items()}
    if names := not_finite(halved):
        raise UserError(
            f"--half: {shown(names[0])} has values beyond 65504, the limit of float16; leave out"
            " the flag"
        )
    return halved


def _save_for_basicsr(state: Mapping[str, Tensor], path: Path) -> None:
    with path.open("wb") as file:
        torch.save({"params": state}, file)


def _to_onnx(
    source: Path, options: argparse.Namespace, network: NetworkOptions | None, path: Path
) -> None:
    named = {} if network is None else {"type": network.type, **network.arguments}
    built = load_network(source, options.key, **named)
    export_onnx(built, path, options.size)
    differences = compare_onnx(built, path, options.size)
    sizes = ", ".join(f"{h}x{w}: {error:.1e}" for (h, w), error in differences.items())
    kind = "any height and width" if options.size is None else "this height and width only"
    output = printable(str(options.output))
    print(f"{output}: {_named(network)}, {kind}; largest difference from onnxruntime ({sizes})")


def _write(output: Path, write: Callable[[Path], object]) -> None:
    """Write a file whole or not at all: after a failure, there is no output, or the earlier one."""
    part = part_of(output)
    try:
        write(part)
        part.replace(output)
    except OSError as error:
        raise UserError(f"-o {printable(str(output))}: {error.strerror or error}") from error
    except (LookupError, ValueError, RuntimeError) as error:  # a dtype or name the format lacks
        raise UserError(f"-o {printable(str(output))}: {reason(error)}") from error
    finally:
        part.unlink(missing_ok=True)


def _named(network: NetworkOptions | None) -> str:
    return "an unknown network" if network is None else str(network)


def _either(words: tuple[str, ...]) -> str:
    return f"{', '.join(words[:-1])} or {words[-1]}"
