"""Figures that others published, to be quoted beside ours: not measured here."""

from dataclasses import dataclass

SOURCE = "Table 2 of the PromptCIR paper (https://arxiv.org/abs/2404.17433)"


@dataclass(frozen=True)
class Published:
    """A row of a paper's table: LIVE1 in colour, as its authors print it."""

    network: str
    parameters: float
    """In millions."""
    scores: dict[int, tuple[float, float, float]]
    """PSNR, SSIM and PSNR-B by quality."""


LIVE1_COLOUR = (
    Published(
        "FBCNN",
        71.92,
        {
            10: (27.77, 0.803, 27.51),
            20: (30.11, 0.868, 29.70),
            30: (31.43, 0.897, 30.92),
            40: (32.34, 0.913, 31.80),
        },
    ),
    Published(
        "Wang et al.",
        11.11,
        {
            10: (27.80, 0.805, 27.57),
            20: (30.23, 0.872, 29.85),
            30: (31.58, 0.900, 31.13),
            40: (32.53, 0.916, 32.04),
        },
    ),
    Published(
        "PromptIR, DF2K",
        36.54,
        {
            10: (27.98, 0.806, 27.66),
            20: (30.31, 0.872, 29.82),
            30: (31.66, 0.900, 31.07),
            40: (32.58, 0.915, 31.96),
        },
    ),
    Published(
        "PromptCIR, DF2K",
        34.75,
        {
            10: (28.00, 0.806, 27.73),
            20: (30.32, 0.872, 29.86),
            30: (31.69, 0.901, 31.10),
            40: (32.64, 0.917, 32.12),
        },
    ),
    Published(
        "PromptCIR, DF2K + LSDIR",
        34.75,
        {
            10: (28.28, 0.813, 27.94),
            20: (30.61, 0.876, 30.12),
            30: (31.96, 0.904, 31.38),
            40: (32.88, 0.919, 32.26),
        },
    ),
)
