"""Under which terms the weights of CODiff may be used, in words for files that hold them."""

CODIFF_WEIGHTS = "codiff.pkl (MIT), for JPEG, at https://github.com/jp-guo/CODiff"

LICENCE = (
    "UNet and VAE are those of Stable Diffusion 2.1 (base) by Stability AI, under the CreativeML"
    " Open RAIL++-M licence; its use-based restrictions hold for this file and for everything"
    " derived from it, and must be passed on with it, together with the text of the licence."
    " CODiff's changes and CaVE are by Guo et al. (https://github.com/jp-guo/CODiff), under the"
    " MIT licence; whether these changes alone are derived from Stable Diffusion is not settled."
)

PASS_ON = (
    "The use restrictions of Stable Diffusion 2.1 (CreativeML Open RAIL++-M) hold for this file;"
    " they are in its metadata (basicsr models shows them). Pass them on with it."
)

CHANGES = (
    "This file was changed: CODiff's low-rank changes are added to the weights of UNet and VAE, the"
    " UNet's first layer is replaced, and a projection of CaVE's tokens takes the place of the text"
    " encoder."
)
"""The licence asks for a notice of changes."""

USE_RESTRICTIONS = (
    "Not to be used to break the law; to exploit or harm minors; to create or spread verifiably"
    " false information, in order to harm others; to create or spread personal information that can"
    " harm somebody; to defame, disparage or harass; for fully automated decisions that affect"
    " somebody's rights or binding obligations; to discriminate against or harm people by their"
    " social behaviour or by known or predicted characteristics of their person; to exploit the"
    " vulnerability of a group by age, social, physical or mental characteristics; to discriminate"
    " by legally protected characteristics; to give medical advice or interpret medical results;"
    " for the administration of justice, law enforcement, immigration or asylum, such as to predict"
    " that somebody will commit a crime. This is a summary; Attachment A of the licence holds."
)
