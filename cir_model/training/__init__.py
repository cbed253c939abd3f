"""Models for BasicSR's trainer. Importing this package registers them."""

from cir_model.training.cave_model import CaVEModel
from cir_model.training.cir_gan_model import CIRGANModel
from cir_model.training.cir_model import CIRModel

__all__ = ["CIRGANModel", "CIRModel", "CaVEModel"]
