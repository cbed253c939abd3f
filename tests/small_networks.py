"""Small variants of our networks: arguments by registry name, for tests over all of them."""

SMALL = {
    "Identity": {},
    "PromptCIR": {
        "dim": 8,
        "num_blocks": (2, 2, 1, 1),
        "num_refinement_blocks": 1,
        "heads": (1, 2, 2, 4),
        "ffn_expansion": 2.0,
        "window_size": 4,
        "compress_ratio": 2,
        "squeeze_factor": 1,
        "prompt_tasks": 3,
        "prompt_bases": (4, 6, 8),
        "prompt_dims": (4, 8, 16),
    },
    "CaVE": {"nc": (8, 8, 12, 16), "nb": 1, "quality_nc": 16},
    "CaVEQuality": {"nc": (8, 8, 12, 16), "nb": 1, "quality_nc": 16},
    "FBCNN": {"nc": (8, 8, 12, 16), "nb": 1, "quality_nc": 16},
    "HAT": {
        "upscale": 1,
        "embed_dim": 12,
        "depths": (2, 2),
        "num_heads": (2, 3),
        "window_size": 4,
        "compress_ratio": 2,
        "squeeze_factor": 1,
        "num_feat": 8,
        "drop_path_rate": 0.0,
    },
    "HFT": {
        "embed_dim": 12,
        "depths": (2, 2),
        "num_heads": (2, 3),
        "window_size": 4,
        "compress_ratio": 2,
        "squeeze_factor": 1,
        "num_feat": 8,
        "drop_path_rate": 0.0,
    },
    "PromptIR": {
        "dim": 8,
        "num_blocks": (1, 1, 1, 1),
        "num_refinement_blocks": 1,
        "prompt_len": 3,
        "prompt_dims": (8, 12, 16),
        "prompt_sizes": (9, 5, 3),
    },
    "SAFMN_BCIE": {"dim": 16, "n_blocks": 2, "num_layers": 2},
    "SCUNet": {"config": (2, 1, 2, 2, 1, 2, 2), "dim": 8, "head_dim": 2, "window_size": 4},
    "UCIP": {
        "embed_dim": 16,
        "depths": (2, 3),
        "p_dim": 8,
        "prompt_bases": 4,
        "modulation_hidden": 8,
        "num_feat": 8,
    },
    "UnifyFormer": {"dim": 20, "num_blocks": (1, 1, 1, 1), "num_refinement_blocks": 1},
}

RETURN_THE_IMAGE = {"CaVEQuality", "Identity"}
"""Networks whose output is the input."""

APART_FROM_THE_IMAGE = {
    "CaVE": r"qf_pred\..*",  # the quality does not enter the image
    "PromptIR": r"(chnl_reduce|reduce_noise_channel_)\d\.weight",  # in the checkpoint, used nowhere
    "UCIP": r"blocks\.\d+\.\d+\.mlp\.fc2\.bias",  # the instance norm behind it takes it away
}
"""Parameters that the restored image does not depend on, as regular expressions of their names."""
