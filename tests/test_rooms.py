"""Imports go one way, between the packages and between the rooms within them."""

import ast
from graphlib import CycleError, TopologicalSorter
from importlib.util import find_spec
from pathlib import Path

import pytest

BELOW = {
    "cir_host": set(),
    "cir_weights": {"cir_host"},
    "cir_arch": {"cir_weights", "cir_host"},
    "cir_data": {"cir_weights", "cir_host"},
    "cir_diffusion": {"cir_arch", "cir_weights", "cir_host"},
    "cir_model": {"cir_diffusion", "cir_arch", "cir_data", "cir_weights", "cir_host"},
    "cir_page": {"cir_model", "cir_data", "cir_weights", "cir_host"},
    "cir_cli": {
        *("cir_page", "cir_model", "cir_diffusion", "cir_arch", "cir_data", "cir_weights"),
        "cir_host",
    },
}
"""The packages, each with those that it may import."""

_SESSION = {"cir_page.session", "cir_page.engine"}
_COMMON = {"cir_data.draws", "cir_data.messages"}
_STORED = {"cir_data.images", "cir_data.storage", *_COMMON}
_CODECS = {*_STORED, "cir_data.options"}
ROOMS_BELOW = {
    "cir_data": set(),
    **{room: set() for room in _COMMON},
    "cir_data.images": _COMMON,
    "cir_data.storage": {"cir_data.images", *_COMMON},
    "cir_data.prepare": _STORED,
    "cir_data.options": _STORED,
    "cir_data.codecs": _CODECS,
    "cir_data.degradations": {"cir_data.codecs", *_CODECS},
    "cir_data.datasets": {"cir_data.degradations", "cir_data.codecs", *_CODECS},
    "cir_page": set(),
    "cir_page.engine": set(),
    "cir_page.server": {"cir_page.layout", *_SESSION},
    "cir_page.session": {"cir_page.engine"},
    "cir_page.listing": _SESSION,
    "cir_page.layout": {"cir_page.listing", *_SESSION},
    "cir_model": set(),
    "cir_model.options": {"cir_model.restoring"},
    "cir_model.metrics": set(),
    "cir_model.losses": {"cir_model.metrics", "cir_model.options"},
    "cir_model.restoring": set(),
    "cir_model.measuring": {"cir_model.restoring", "cir_model.metrics", "cir_model.options"},
    "cir_model.training": {
        *("cir_model.measuring", "cir_model.restoring", "cir_model.metrics", "cir_model.losses"),
        "cir_model.options",
    },
}
"""The rooms of three packages, each with those that it may import."""


def modules():
    for package in BELOW:
        (folder,) = find_spec(package).submodule_search_locations
        for file in Path(folder).rglob("*.py"):
            parts = (package, *file.relative_to(folder).with_suffix("").parts)
            yield ".".join(parts).removesuffix(".__init__"), file


FILES = dict(modules())


def imported_by(module):
    """Yield the modules of ours that one imports, anywhere in its text."""
    for node in ast.walk(ast.parse(FILES[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} has a relative import"
            whole = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name in FILES else node.module for name in whole]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        yield from (name for name in names if name in FILES and name != module)


GRAPH = {module: set(imported_by(module)) for module in FILES}


def room_of(module):
    parents = [module.rsplit(".", n)[0] for n in range(module.count(".") + 1)]
    return next((parent for parent in parents if parent in ROOMS_BELOW), None)


@pytest.mark.parametrize("package", BELOW)
def test_a_package_imports_only_those_below_it(package):
    arrows = {
        (module, name)
        for module, names in GRAPH.items()
        for name in names
        if module.split(".")[0] == package and name.split(".")[0] not in BELOW[package] | {package}
    }
    assert not arrows


@pytest.mark.parametrize("room", sorted(ROOMS_BELOW))
def test_a_room_imports_only_those_below_it(room):
    inside = [module for module in GRAPH if room_of(module) == room]
    assert inside
    arrows = {
        (module, name)
        for module in inside
        for name in GRAPH[module]
        if name.split(".")[0] == room.split(".")[0]
        and room_of(name) not in ROOMS_BELOW[room] | {room}
    }
    assert not arrows


def test_every_module_of_a_package_with_rooms_is_in_one():
    packages = {room.split(".")[0] for room in ROOMS_BELOW}
    strays = {
        module
        for module in FILES
        if module.split(".")[0] in packages - {module} and room_of(module) in packages
    }
    assert not strays


def test_no_modules_import_each_other_in_a_circle():
    try:
        TopologicalSorter(GRAPH).prepare()
    except CycleError as error:
        pytest.fail(" <- ".join(error.args[1]))
