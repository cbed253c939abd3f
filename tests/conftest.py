"""Shared by all tests."""

from importlib import import_module

import cir_arch  # noqa: F401
import cir_host  # noqa: F401 (before any test module imports BasicSR)
from cir_arch.network import entry_named

# The tests over all networks run for the example of CONTRIBUTING.md, too.
if entry_named("MyNet") is None:  # unless somebody has followed it to the letter
    import_module("example_network")
