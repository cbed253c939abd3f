"""Networks for compressed-image restoration. Importing this registers them with BasicSR.

BasicSR itself is not imported; its registry receives the networks as soon as somebody imports it.
"""

import cir_host  # noqa: F401, I001 (waits for BasicSR, so it comes first)

from cir_arch.art_arch import ART
from cir_arch.cave_arch import CaVE, CaVEQuality
from cir_arch.dair_arch import DAIR
from cir_arch.diffir_arch import DiffIR
from cir_arch.facts import NetworkFacts
from cir_arch.fbcnn_arch import FBCNN
from cir_arch.fftformer_arch import FFTformer
from cir_arch.fftformer_qfem_arch import FFTformerQFEM
from cir_arch.grl_arch import GRL
from cir_arch.grl_cic_arch import GRL_CIC
from cir_arch.hat_arch import HAT
from cir_arch.hft_arch import HFT
from cir_arch.identity_arch import Identity
from cir_arch.jdec_arch import JDEC
from cir_arch.promptcir_arch import PromptCIR
from cir_arch.promptir_arch import PromptIR
from cir_arch.recognition import load_network, recognise
from cir_arch.restormer_arch import Restormer
from cir_arch.restormer_qf_arch import RestormerQF
from cir_arch.retinexformer_arch import Retinexformer
from cir_arch.running import facts_of
from cir_arch.safmn_bcie_arch import SAFMN_BCIE
from cir_arch.scunet_arch import SCUNet
from cir_arch.srformer_arch import SRFormer
from cir_arch.srformer_fusion_arch import SRFormerFusion
from cir_arch.swin2sr_arch import Swin2SR
from cir_arch.tempest_arch import Tempest
from cir_arch.ucip_arch import UCIP
from cir_arch.unifyformer_arch import UnifyFormer
from cir_arch.wavelet_unet_arch import WaveletUNet

__all__ = [
    "ART",
    "DAIR",
    "FBCNN",
    "GRL",
    "GRL_CIC",
    "HAT",
    "HFT",
    "JDEC",
    "SAFMN_BCIE",
    "UCIP",
    "CaVE",
    "CaVEQuality",
    "DiffIR",
    "FFTformer",
    "FFTformerQFEM",
    "Identity",
    "NetworkFacts",
    "PromptCIR",
    "PromptIR",
    "Restormer",
    "RestormerQF",
    "Retinexformer",
    "SCUNet",
    "SRFormer",
    "SRFormerFusion",
    "Swin2SR",
    "Tempest",
    "UnifyFormer",
    "WaveletUNet",
    "facts_of",
    "load_network",
    "recognise",
]
