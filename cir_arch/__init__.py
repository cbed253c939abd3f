"""Networks for compressed-image restoration. Importing this registers them with BasicSR.

BasicSR itself is not imported; its registry receives the networks as soon as somebody imports it.
"""

import cir_host  # noqa: F401, I001 (waits for BasicSR, so it comes first)

from cir_arch.basicsr_networks import facts_of
from cir_arch.cave_arch import CaVE, CaVEQuality
from cir_arch.facts import NetworkFacts
from cir_arch.fbcnn_arch import FBCNN
from cir_arch.hat_arch import HAT
from cir_arch.hft_arch import HFT
from cir_arch.identity_arch import Identity
from cir_arch.promptcir_arch import PromptCIR
from cir_arch.promptir_arch import PromptIR
from cir_arch.recognition import load_network, recognise
from cir_arch.retinexformer_arch import Retinexformer
from cir_arch.safmn_bcie_arch import SAFMN_BCIE
from cir_arch.scunet_arch import SCUNet
from cir_arch.tempest_arch import Tempest
from cir_arch.ucip_arch import UCIP
from cir_arch.unifyformer_arch import UnifyFormer

__all__ = [
    "FBCNN",
    "HAT",
    "HFT",
    "SAFMN_BCIE",
    "UCIP",
    "CaVE",
    "CaVEQuality",
    "Identity",
    "NetworkFacts",
    "PromptCIR",
    "PromptIR",
    "Retinexformer",
    "SCUNet",
    "Tempest",
    "UnifyFormer",
    "facts_of",
    "load_network",
    "recognise",
]
