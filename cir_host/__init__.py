"""Ground floor of basicsr-cir: makes BasicSR importable and correct.

Every other package of ours imports this one first. Importing it supplies the modules that
BasicSR misses, imports BasicSR and applies the patches of :mod:`cir_host.patches`.
"""

from cir_host.compat import supply_missing_modules

supply_missing_modules()

from cir_host import patches  # noqa: E402 (BasicSR is importable only from here on)
from cir_host.version import __version__  # noqa: E402

patches.apply()

__all__ = ["__version__"]
