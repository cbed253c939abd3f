"""The naive form of each network, by registered name: same arguments, same state-dict keys."""

from naive_hat import NaiveHAT, NaiveHFT
from naive_promptcir import NaivePromptCIR
from naive_promptir import NaivePromptIR
from naive_residual_unet import NaiveCaVE, NaiveFBCNN
from naive_safmn_bcie import NaiveSAFMN
from naive_scunet import NaiveSCUNet
from naive_ucip import NaiveUCIP
from naive_unifyformer import NaiveUnifyFormer
from torch import nn

NAIVE: dict[str, type[nn.Module]] = {
    "PromptCIR": NaivePromptCIR,
    "UCIP": NaiveUCIP,
    "CaVE": NaiveCaVE,
    "HAT": NaiveHAT,
    "HFT": NaiveHFT,
    "FBCNN": NaiveFBCNN,
    "SCUNet": NaiveSCUNet,
    "UnifyFormer": NaiveUnifyFormer,
    "SAFMN_BCIE": NaiveSAFMN,
    "PromptIR": NaivePromptIR,
}
