"""Ground floor of basicsr-cir: makes BasicSR importable and correct.

Importing this package does not import BasicSR. As soon as anybody imports it,
:mod:`cir_host.basicsr_import` supplies the modules that it misses and applies the patches of
:mod:`cir_host.patches`.
"""

from cir_host.basicsr_import import watch
from cir_host.version import __version__

watch()

__all__ = ["__version__"]
