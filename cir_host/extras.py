"""Optional packages, which only some features need."""

from importlib import import_module
from types import ModuleType

from cir_host.errors import UserError


def needs_extra(module: str, extra: str, purpose: str) -> ModuleType:
    """Import an optional package.

    Args:
        module: Its import name.
        extra: The extra of ``basicsr-cir`` that installs it.
        purpose: What needs it.

    Raises:
        UserError: It cannot be imported.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise UserError(
            f"{purpose} needs the package {module} ({error});"
            f" install it with: pip install 'basicsr-cir[{extra}]'"
        ) from error
