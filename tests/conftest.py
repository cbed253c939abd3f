"""Shared by all tests."""

import cir_host  # noqa: F401 (before any test module imports BasicSR, which it makes importable)
