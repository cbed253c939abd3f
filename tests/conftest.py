"""Shared by all tests."""

import sys
from importlib import import_module
from pathlib import Path

import cir_arch  # noqa: F401
import cir_host  # noqa: F401 (before any test module imports BasicSR)
from cir_arch.network import entry_named

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))  # the naive forms

# The tests over all networks run for the example of CONTRIBUTING.md, too.
if entry_named("MyNet") is None:  # unless somebody has followed it to the letter
    import_module("example_network")
