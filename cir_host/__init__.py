"""The base of basicsr-cir: makes BasicSR importable and corrects its defects.

Importing this package does not import BasicSR. When something imports BasicSR,
:mod:`cir_host.basicsr_import` supplies the modules that BasicSR lacks and applies the patches of
:mod:`cir_host.patches`.
"""

from cir_host.basicsr_import import watch
from cir_host.version import __version__

watch()

__all__ = ["__version__"]
