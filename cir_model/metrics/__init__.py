"""Metrics that BasicSR lacks, one per file. Importing this package registers them."""

from cir_model.metrics.perceptual import calculate_dists, calculate_lpips
from cir_model.metrics.psnrb import calculate_psnrb
from cir_model.metrics.quality_error import calculate_quality_error

__all__ = ["calculate_dists", "calculate_lpips", "calculate_psnrb", "calculate_quality_error"]
