"""``basicsr options``: a reference of all keys, and a JSON schema for editors.

Both are generated from the structs that check the options of a run, so they cannot differ.
"""

import json
from collections.abc import Iterator, Mapping
from itertools import chain
from typing import Any

import msgspec
from basicsr.utils.registry import ARCH_REGISTRY, DATASET_REGISTRY

from cir_cli import parsers
from cir_host.ownership import is_ours
from cir_model import (
    CaVEModel,
    CIRGANModel,
    CIRModel,
    CODiffModel,
    DiffIRGANModel,
    DiffIRModel,
)

_FILLED_IN = ("phase", "manual_seed", "scale")
"""Keys of a data set that the parser fills in from elsewhere in the file."""

_FURTHER_MODELS = {
    f"train, model_type: {' or '.join(model.__name__ for model in models)}": models
    for models in ((CaVEModel,), (CIRGANModel, CODiffModel), (DiffIRModel,), (DiffIRGANModel,))
}
"""By the title of their section ``train``; their other sections are those of ``CIRModel``."""

_INTRODUCTION = """\
# Options

The keys of an options file with `model_type: CIRModel`, `CaVEModel`, `CIRGANModel`, `CODiffModel`,
`DiffIRModel` or `DiffIRGANModel`. A key that is not listed is an error, and so is a value of
another type or out of range; both are found before the run starts. This page is printed by
`basicsr options`.

Editors with the YAML language server complete and check a file by the schema that its first line
names. Each shipped options file begins with `# yaml-language-server: $schema=schema.json`, and
`schema.json` is in the same folder. For a file in another folder, write the schema there:

```
basicsr options --schema > schema.json
```
"""


def run(arguments: list[str]) -> None:
    """Print the reference as Markdown, or the schema."""
    options = parsers.options().parse_args(arguments)
    print(schema_text() if options.schema else reference(), end="")


def schema_text() -> str:
    """Return the JSON schema of an options file."""
    sections, definitions = _schemas()
    data_sets = {name: sections.pop(name) for name in _data_sets()}
    of_type = [
        {"if": {"properties": {"type": {"const": name}}}, "then": data_set}
        for name, data_set in data_sets.items()
    ]
    trainings = {title: sections.pop(title) for title in _FURTHER_MODELS}
    of_models = {(CIRModel,): sections} | {
        models: {**sections, "train": trainings[title]} for title, models in _FURTHER_MODELS.items()
    }
    by_names = {tuple(m.__name__ for m in models): keys for models, keys in of_models.items()}
    networks = sorted(
        name
        for name, cls in ARCH_REGISTRY
        if is_ours(cls) and hasattr(cls, "facts")  # no discriminators
    )
    document = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Options of basicsr-cir",
        "type": "object",
        "required": ["name", "model_type", "num_gpu", "datasets", "path"],
        "properties": {
            "name": {"type": "string", "description": "Names the folder of the run."},
            "model_type": {"type": "string", "examples": [*chain(*by_names)]},
            "scale": {"type": "integer", "minimum": 1},
            "num_gpu": {"anyOf": [{"const": "auto"}, {"type": "integer", "minimum": 0}]},
            "manual_seed": {"type": ["integer", "null"]},
            "datasets": {
                "type": "object",
                "additionalProperties": {
                    "type": "object",
                    "required": ["name", "type"],
                    "properties": {"type": {"type": "string", "examples": [*data_sets]}},
                    "allOf": of_type,
                },
            },
            "network_g": {
                "type": "object",
                "required": ["type"],
                "properties": {"type": {"type": "string", "examples": networks}},
            },
            "network_d": {"type": "object", "required": ["type"]},
            "path": {"type": "object"},
        },
        "allOf": [
            {"if": {"properties": {"model_type": {"enum": names}}}, "then": {"properties": keys}}
            for names, keys in by_names.items()
        ],
        "$defs": definitions,
    }
    return json.dumps(document, indent=2) + "\n"


def reference() -> str:
    """Return the reference of all keys as Markdown."""
    sections, definitions = _schemas()
    parts = [_INTRODUCTION]
    shared = sections["train"]["properties"].keys()
    for title in _FURTHER_MODELS:
        properties = sections[title]["properties"]
        sections[title]["properties"] = {k: v for k, v in properties.items() if k not in shared}
    for name, section in sections.items():
        title = f"datasets, type: {name}" if name in _data_sets() else name
        parts.append(f"## `{title}`\n\n" + "\n".join(_table(section, definitions)) + "\n")
        for key, inner in _inner_sections(section, definitions):
            parts.append(f"### `{name}.{key}`\n\n" + "\n".join(_table(inner, definitions)) + "\n")
    return "\n".join(parts)


def _data_sets() -> dict[str, type[msgspec.Struct]]:
    return {name: cls.options_type for name, cls in sorted(DATASET_REGISTRY) if is_ours(cls)}


def _schemas() -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the schema of each section (data sets by type), and the definitions they refer to."""
    types: dict[str, Any] = {
        **CIRModel.options_types,
        **{title: models[0].options_types["train"] for title, models in _FURTHER_MODELS.items()},
        **_data_sets(),
    }
    _, definitions = msgspec.json.schema_components(types.values(), ref_template="#/$defs/{name}")
    sections = {name: definitions.pop(struct.__name__) for name, struct in types.items()}
    for name in _data_sets():
        section = sections[name]
        section["required"] = [key for key in section["required"] if key not in _FILLED_IN]
        for key in _FILLED_IN:
            del section["properties"][key]
        section["properties"]["type"] = {"const": name}
    return sections, definitions


def _inner_sections(
    section: Mapping[str, Any], definitions: Mapping[str, Any]
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for key, value in section["properties"].items():
        for name in _references(value):
            if "properties" in definitions[name]:
                yield key, definitions[name]


def _references(schema: Mapping[str, Any]) -> Iterator[str]:
    if "$ref" in schema:
        yield schema["$ref"].rpartition("/")[2]
    for inner in (*schema.get("anyOf", ()), schema.get("items", {})):
        if inner:
            yield from _references(inner)


def _table(section: Mapping[str, Any], definitions: Mapping[str, Any]) -> Iterator[str]:
    yield "| key | value | default | |"
    yield "|---|---|---|---|"
    for key, value in section["properties"].items():
        needed = key in section.get("required", ())
        default = "needed" if needed else f"`{json.dumps(value.get('default'))}`"
        meaning = " ".join(value.get("description", "").split())
        kind = _kind(value, definitions).replace("|", r"\|")
        yield f"| `{key}` | {kind} | {default} | {meaning} |"


def _kind(schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> str:
    """Describe in a few words which values a schema allows."""
    if "anyOf" in schema:
        kinds = [_kind(inner, definitions) for inner in schema["anyOf"]]
        return " or ".join(kind for kind in dict.fromkeys(kinds) if kind != "null")
    if "enum" in schema:
        return " or ".join(f"`{json.dumps(v).strip(chr(34))}`" for v in schema["enum"])
    if "const" in schema:
        return f"`{schema['const']}`"
    if "$ref" in schema:
        inner = definitions[schema["$ref"].rpartition("/")[2]]
        return "section" if "properties" in inner else _kind(inner, definitions)
    if schema.get("type") == "array":
        inner = schema.get("items") or next(iter(schema.get("prefixItems", ())), {})
        return f"list of {_kind(inner, definitions)}"
    bounds = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}
    limits = [f"{sign} {schema[key]:g}" for key, sign in bounds.items() if key in schema]
    return " ".join([schema.get("type", "any"), ", ".join(limits)]).strip()
