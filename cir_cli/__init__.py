"""The command ``basicsr``."""

import cir_host  # noqa: F401 (without it, BasicSR cannot be imported)
