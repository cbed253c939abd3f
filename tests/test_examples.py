"""The examples in docstrings are run."""

import doctest
import pkgutil
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest
from test_rooms import BELOW


def with_examples():
    for package in BELOW:
        folder = find_spec(package).submodule_search_locations
        below = (module.name for module in pkgutil.walk_packages(folder, f"{package}."))
        for name in (package, *below):
            if ">>>" in Path(find_spec(name).origin).read_text(encoding="utf-8"):
                yield name


@pytest.mark.parametrize("name", list(with_examples()))
def test_the_examples_of_a_module_give_what_they_say(name):
    result = doctest.testmod(import_module(name), optionflags=doctest.ELLIPSIS)
    assert result.attempted > 0
    assert result.failed == 0
