"""Shared by all tests."""

import sys
from pathlib import Path

import cir_host  # noqa: F401 (before any test module imports BasicSR, which it makes importable)

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))  # the naive forms
