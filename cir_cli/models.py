"""``basicsr models``: list all networks, or show what a checkpoint holds."""

import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from cir_arch.facts import NetworkFacts
from cir_arch.network import Entry, entries
from cir_arch.recognition import NetworkOptions, about_part, described, recognise
from cir_arch.running import facts_of
from cir_cli import parsers
from cir_diffusion.checkpoint import kind_of
from cir_diffusion.description import describe
from cir_diffusion.licence import CODIFF_WEIGHTS
from cir_host.checkpoint import Checkpoint, read_checkpoint
from cir_host.checkpoint_files import shown
from cir_host.errors import UserError
from cir_host.file_names import printable
from cir_host.loading import about_not_finite, load_into, not_finite


def run(arguments: list[str]) -> None:
    """Print the table of networks, or what a checkpoint holds.

    Raises:
        UserError: The file cannot be read, or holds no weights.
    """
    options = parsers.models().parse_args(arguments)
    if options.markdown:
        print(markdown(entries()))
        return
    if options.file is None:
        networks = [_network(entry) for entry in entries()]
        print(json.dumps(networks, indent=2) if options.json else _overview(networks))
        return
    if kind_of(options.file) is not None:
        if options.key is not None:
            raise UserError("--key: CODiff's files hold no other state dicts; leave out the flag")
        told = describe(options.file)
        print(json.dumps(told, indent=2) if options.json else _codiff(options.file, told))
        return
    held = _file(read_checkpoint(options.file, options.key))
    print(json.dumps(held, indent=2) if options.json else _description(options.file, held))


def _network(entry: Entry) -> dict[str, Any]:
    parameters, facts = _size_and_facts(entry)
    return {
        "type": entry.name,
        "arguments": dict(entry.published),
        "parameters": parameters,
        "gmacs_128x128": entry.gmacs,
        "facts": _plain(facts),
        "weights": [asdict(weights) for weights in entry.weights],
    }


def _size_and_facts(entry: Entry) -> tuple[int, NetworkFacts]:
    """Return the number of parameters and the facts of a network of published size."""
    if entry.described is not None:
        return entry.described
    network = NetworkOptions(entry.name, entry.published).outline()
    facts = facts_of(network)
    assert facts is not None  # every registered network has facts
    return sum(parameter.numel() for parameter in network.parameters()), facts


def markdown(networks: Iterable[Entry]) -> str:
    """Return the table of networks for the documentation."""
    head = ("name", "paper", "parameters", "padded inside to multiples of", "precisions")
    rows = [
        (f"`{entry.name}`", entry.paper, f"{parameters:,}", _multiples(facts), _precisions(facts))
        for entry in networks
        for parameters, facts in [_size_and_facts(entry)]
    ]
    first, *others = (f"| {' | '.join(row)} |" for row in (head, *rows))
    return "\n".join((first, f"|{'---|' * len(head)}", *others))


def _multiples(facts: NetworkFacts) -> str:
    if facts.padding is None or facts.padding.smallest == 1:
        return str(facts.size_multiple)
    return f"{facts.padding.multiple} from {facts.padding.smallest} on"


def _precisions(facts: NetworkFacts) -> str:
    return ", ".join(_plain(facts)["precisions"])


def _overview(networks: Sequence[dict[str, Any]]) -> str:
    head = ("network", "parameters", "GMAC at 128x128", "sizes", "scale", "precisions")
    rows = [
        (
            network["type"],
            f"{network['parameters']:,}",
            f"{network['gmacs_128x128']:.1f}",
            _size_rule(network["facts"]),
            f"x{network['facts']['scale']}",
            " ".join(network["facts"]["precisions"]),
        )
        for network in networks
    ]
    lines = [
        *_aligned([head, *rows]),
        "",
        "Published weights: file (container; licence), what it was trained for, and the link:",
    ]
    for network in networks:
        if network["parameters"]:
            lines += _published(network)
    lines.append(f"  CODiff, a diffusion model (docs/diffusion.md): {CODIFF_WEIGHTS}")
    return "\n".join(lines)


def _published(network: dict[str, Any]) -> Iterable[str]:
    if not network["weights"]:
        yield f"  {network['type']}: none"
    for weights in network["weights"]:
        yield (
            f"  {network['type']}: {weights['file']} ({weights['container']};"
            f" {weights['licence']}), for {weights['trained_for']}"
        )
        yield f"    {weights['link']}"


def _size_rule(facts: dict[str, Any]) -> str:
    multiple = facts["size_multiple"]
    return "any" if multiple == 1 else f"any, padded to {multiple}"


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    padded = ((cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return ["  ".join(cells).rstrip() for cells in padded]


def _file(file: Checkpoint) -> dict[str, Any]:
    dtypes = sorted({str(value.dtype).removeprefix("torch.") for value in file.state.values()})
    held: dict[str, Any] = {
        "container": file.container,
        "member": file.member,
        "keys": list(file.keys),
        "key": file.key,
        "prefix": file.prefix,
        "tensors": len(file.state),
        "numbers": sum(value.numel() for value in file.state.values()),
        "dtypes": dtypes,
        "not_finite": not_finite(file.state),
        "network_g": None,
        "assumed": [],
        "part": None,
    }
    options = described(file.metadata) or recognise(file.state)
    if options is not None:
        held["network_g"] = {
            "type": options.type,
            **options.arguments,
            **_plain_lists(options.assumed),
        }
        held["assumed"] = list(options.assumed)
        with suppress(UserError):  # a network of another program
            network = options.outline()
            facts = facts_of(network)
            held["facts"] = None if facts is None else _plain(facts)
            held["parameters"] = sum(parameter.numel() for parameter in network.parameters())
            held["fits"] = _fit(network, file)
    else:
        held["part"] = about_part(file.state)
    return held


def _plain_lists(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return arguments as YAML writes them, without tuples."""
    plain: dict[str, Any] = json.loads(json.dumps(arguments))
    return plain


def _fit(network: Any, file: Checkpoint) -> str:
    try:
        return str(load_into(network, file.state, True, "the file", testing=True))
    except UserError as error:
        return str(error)


def _plain(facts: NetworkFacts) -> dict[str, Any]:
    return {**asdict(facts), "precisions": sorted(facts.precisions, reverse=True)}


def _codiff(path: Path, told: Mapping[str, Any]) -> str:
    rows = [
        ("file", printable(str(path))),
        ("network", f"{told['network']}, {told['holds']}"),
        ("tensors", f"{told['tensors']} of {told['numbers']:,} numbers, {_list(told['dtypes'])}"),
        *told["more"].items(),
    ]
    return "\n".join(_aligned([(f"{name}:", value) for name, value in rows]))


def _description(path: Path, held: dict[str, Any]) -> str:
    container = {
        "safetensors": "safetensors",
        "zip": "torch.save",
        "legacy": "torch.save, format before torch 1.6",
    }
    rows = [
        ("file", printable(str(path))),
        ("container", container[held["container"]]),
        ("state dicts", _keys(held["keys"], held["key"])),
        ("tensors", f"{held['tensors']} of {held['numbers']:,} numbers, {_list(held['dtypes'])}"),
    ]
    if held["member"]:
        rows.insert(1, ("zip archive", f"of {shown(held['member'])}"))
    if held["not_finite"]:
        rows.append(("values", about_not_finite(held["not_finite"], held["tensors"])))
    if held["prefix"]:
        rows.append(("names", f"all begin with {held['prefix']}, which is removed"))
    section = held["network_g"]
    if section is None:
        rows.append(("network", held["part"] or "unknown"))
    elif "fits" in held:
        rows.append(("network", f"{section['type']}, {held['fits']}"))
        rows += _facts(held["facts"]) if held["facts"] else []
        if held["assumed"]:
            rows.append(("assumed", f"{_list(held['assumed'])}, which the file does not tell"))
    else:
        rows.append(("network", f"{section['type']}, which cannot be built here"))
    lines = _aligned([(name + ":", value) for name, value in rows])
    if section is not None:
        snippet = yaml.safe_dump({"network_g": section}, sort_keys=False, default_flow_style=None)
        lines += ["", snippet.rstrip()]
    return "\n".join(lines)


def _keys(keys: Sequence[str], taken: str | None) -> str:
    if taken is None:
        return "the file is one"
    others = [shown(key) for key in keys if key != taken]
    return shown(taken) + (f" (also there: {_list(others)})" if others else "")


def _facts(facts: dict[str, Any]) -> Iterable[tuple[str, str]]:
    if facts["input_kind"] == "coefficients":
        yield "input", "the DCT coefficients of JPEG files"
    yield "channels", str(facts["in_channels"])
    yield "scale", f"x{facts['scale']}"
    yield "sizes", _size_rule(facts)
    yield "precisions", " ".join(facts["precisions"])


def _list(words: Iterable[str]) -> str:
    return ", ".join(words)
