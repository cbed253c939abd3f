"""The command ``basicsr``."""

import cir_host  # noqa: F401 (BasicSR is importable only after it)
