"""BasicSR models, metrics and inference for compressed-image restoration.

Importing this package registers ``CIRModel`` and ``calculate_psnrb``.
"""

import cir_host  # noqa: F401 (BasicSR is importable only after it)
from cir_model.cir_model import CIRModel
from cir_model.inference import restore_image
from cir_model.metrics.psnrb import calculate_psnrb

__all__ = ["CIRModel", "calculate_psnrb", "restore_image"]
