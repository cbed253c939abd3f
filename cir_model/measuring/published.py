"""Published figures that the results page quotes; they were not measured here."""

from typing import NamedTuple

SOURCE = "Table 2 of the PromptCIR paper (https://arxiv.org/abs/2404.17433)"


class Published(NamedTuple):
    """A row of a paper's table, as printed."""

    network: str
    parameters: str
    scores: str
    """PSNR, SSIM and PSNR-B at qualities 10, 20, 30 and 40."""


LIVE1_COLOUR = (
    Published(
        "FBCNN",
        "71.92M",
        "27.77/0.803/27.51 30.11/0.868/29.70 31.43/0.897/30.92 32.34/0.913/31.80",
    ),
    Published(
        "Wang et al.",
        "11.11M",
        "27.80/0.805/27.57 30.23/0.872/29.85 31.58/0.900/31.13 32.53/0.916/32.04",
    ),
    Published(
        "PromptIR, DF2K",
        "36.54M",
        "27.98/0.806/27.66 30.31/0.872/29.82 31.66/0.900/31.07 32.58/0.915/31.96",
    ),
    Published(
        "PromptCIR, DF2K",
        "34.75M",
        "28.00/0.806/27.73 30.32/0.872/29.86 31.69/0.901/31.10 32.64/0.917/32.12",
    ),
    Published(
        "PromptCIR, DF2K + LSDIR",
        "34.75M",
        "28.28/0.813/27.94 30.61/0.876/30.12 31.96/0.904/31.38 32.88/0.919/32.26",
    ),
)
"""From :data:`SOURCE`."""
