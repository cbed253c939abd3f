"""Models for BasicSR's trainer. Importing this package registers them."""

from cir_model.training.cave_model import CaVEModel
from cir_model.training.cir_gan_model import CIRGANModel
from cir_model.training.cir_model import CIRModel
from cir_model.training.codiff_model import CODiffModel
from cir_model.training.diffir_model import DiffIRGANModel, DiffIRModel

__all__ = ["CIRGANModel", "CIRModel", "CODiffModel", "CaVEModel", "DiffIRGANModel", "DiffIRModel"]
