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
}
