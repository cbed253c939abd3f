"""Whose a class or function is: ours, BasicSR's, or another package's."""

from typing import Any


def package_of(thing: Any) -> str:
    """Return the top-level package that defines a class or function; empty if it does not say."""
    return str(getattr(thing, "__module__", "")).partition(".")[0]


def is_ours(thing: Any) -> bool:
    """Whether a class or function is from one of our packages."""
    return package_of(thing).startswith("cir_")


def is_known(thing: Any) -> bool:
    """Whether a class or function is BasicSR's or ours, so its behaviour is known."""
    return package_of(thing) == "basicsr" or is_ours(thing)
