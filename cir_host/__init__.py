"""Ground floor of basicsr-cir: makes BasicSR importable and correct.

Every other package of ours imports this one first. Importing it supplies the modules that
BasicSR misses, imports BasicSR and applies the patches of :mod:`cir_host.patches`.
"""

from cir_host.compat import supply_missing_modules, warnings_stay_warnings

with warnings_stay_warnings():
    supply_missing_modules()

    from cir_host import patches  # BasicSR is importable only from here on

    patches.apply()

from cir_host.version import __version__

__all__ = ["__version__"]
