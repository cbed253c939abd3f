"""Packages that only some codecs need."""

from importlib import import_module
from types import ModuleType

from cir_host.errors import UserError


def needs_extra(module: str, extra: str, purpose: str) -> ModuleType:
    """Import a package that an extra of this one installs.

    Args:
        module: Its name in Python.
        extra: The extra of ``basicsr-cir`` that brings it.
        purpose: What needs it.

    Raises:
        UserError: It cannot be imported.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise UserError(
            f"{purpose} needs the package {module} ({error});"
            f" install it by: pip install 'basicsr-cir[{extra}]'"
        ) from error
