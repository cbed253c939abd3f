"""BasicSR models, metrics and inference for compressed-image restoration.

Importing this package registers ``CIRModel``, ``CaVEModel`` and ``CIRGANModel``, the metrics
``calculate_psnrb``, ``calculate_lpips``, ``calculate_dists`` and ``calculate_quality_error``, and
the losses that BasicSR lacks.
"""

import cir_host  # noqa: F401 (BasicSR is importable only after it)
from cir_model.cave_model import CaVEModel
from cir_model.cir_gan_model import CIRGANModel
from cir_model.cir_model import CIRModel
from cir_model.in_memory import restore_image
from cir_model.metrics.perceptual import calculate_dists, calculate_lpips
from cir_model.metrics.psnrb import calculate_psnrb
from cir_model.metrics.quality_error import calculate_quality_error

__all__ = [
    "CIRGANModel",
    "CIRModel",
    "CaVEModel",
    "calculate_dists",
    "calculate_lpips",
    "calculate_psnrb",
    "calculate_quality_error",
    "restore_image",
]
