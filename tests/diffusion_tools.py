"""A CODiff of tiny widths, of Stable Diffusion's shape: its parts, and their files on disk."""

import json
from copy import deepcopy
from functools import cache
from types import SimpleNamespace

import torch
from vector_tools import FOLDER, fill, filled

from cir_arch.cave_arch import CaVE, CaVEEncoder
from cir_arch.state_dict import entries_below
from cir_diffusion import lora
from cir_diffusion.base import Base, build_part
from cir_diffusion.checkpoint import TrainedParts, assemble
from cir_diffusion.noise_schedule import NoiseSchedule

UNET = {
    "sample_size": 64,
    "block_out_channels": [32, 64, 96, 96],
    "attention_head_dim": [2, 4, 6, 6],
    "cross_attention_dim": 48,
    "norm_num_groups": 8,
    "use_linear_projection": True,
    "down_block_types": [*["CrossAttnDownBlock2D"] * 3, "DownBlock2D"],
    "up_block_types": ["UpBlock2D", *["CrossAttnUpBlock2D"] * 3],
}
FULL_UNET = {
    "block_out_channels": [320, 640, 1280, 1280],
    "attention_head_dim": [5, 10, 20, 20],
    "cross_attention_dim": 1024,
    "norm_num_groups": 32,
}
"""What the real size has instead."""
VAE = {
    "block_out_channels": [32, 64, 96, 96],
    "layers_per_block": 2,
    "latent_channels": 4,
    "norm_num_groups": 32,
    "sample_size": 768,
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
}
SCHEDULER = {
    "_class_name": "PNDMScheduler",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
}
CAVE = {"nc": (8, 16, 24, 32), "nb": 2}
RANKS = {"rank_unet": 4, "rank_vae": 2}
SCHEDULE = NoiseSchedule(0.00085, 0.012, 1000)


@cache
def _filled_part(part):
    with torch.device("meta"):
        network = build_part(part, {"unet": UNET, "vae": VAE}[part])
    named = {f"{part}.{name}": value for name, value in network.state_dict().items()}
    network.load_state_dict(entries_below(fill(named), f"{part}."), assign=True)
    return network.eval()


def tiny_base():
    """UNet, VAE and schedule with the weights of the vectors."""
    return Base(*(deepcopy(_filled_part(part)) for part in ("unet", "vae")), SCHEDULE)


def tiny_cave():
    """The whole CaVE with the weights of the vectors."""
    return filled(CaVE(**CAVE))


def tiny_cave_encoder():
    """Its encoder, which has the same weights."""
    return filled(CaVEEncoder(**CAVE))


def tiny_pickle():
    """The content of a ``codiff.pkl`` as the release saves it, without the lists of modules."""
    return deepcopy(_tiny_pickle())


@cache
def _tiny_pickle():
    keys = json.loads((FOLDER / "codiff_tiny.keys.json").read_text())["keys"]
    state = fill({name: torch.empty(shape) for name, shape in keys.items()})
    content = dict(RANKS)
    for name, value in state.items():
        part, _, entry = name.partition(".")
        scale = 0.25 if ".lora_B." in name else 1
        content.setdefault(part, {})[entry] = scale * value
    return content


def tiny_parts():
    """The same, without the numbers beside the tensors."""
    content = tiny_pickle()
    return TrainedParts(content["state_dict_unet"], content["state_dict_vae"], content["proj"])


def tiny_codiff(**options):
    """CODiff with the weights of the vectors, merged."""
    return assemble(tiny_parts(), tiny_base(), tiny_cave_encoder(), "tiny", **options).eval()


def write_tiny(folder):
    """Write ``codiff.pkl``, ``cave.pth`` and the folder ``base``; return the paths of all three."""
    base = tiny_base()
    base.unet.save_pretrained(folder / "base" / "unet")
    base.vae.save_pretrained(folder / "base" / "vae")
    scheduler = folder / "base" / "scheduler"
    scheduler.mkdir()
    (scheduler / "scheduler_config.json").write_text(json.dumps(SCHEDULER))
    content = tiny_pickle()
    named = {
        f"unet_lora_{part}_modules": [
            name for name in lora.layers_of_unet(base.unet) if name.startswith(starts)
        ]
        for part, starts in {
            "encoder": ("down_blocks", "conv_in"),
            "decoder": ("up_blocks", "conv_out"),
            "others": "mid_block",
        }.items()
    }
    named["vae_lora_encoder_modules"] = 2 * list(lora.layers_of_vae(base.vae))
    torch.save({**content, **named}, folder / "codiff.pkl")
    cave = tiny_cave().state_dict()
    torch.save(cave, folder / "cave.pth", _use_new_zipfile_serialization=False)
    return SimpleNamespace(
        pickle=folder / "codiff.pkl", cave=folder / "cave.pth", base=folder / "base"
    )


def write_outline(base, cave):
    """Write files of the real size that hold no weights, for networks on the meta device.

    Args:
        base: Path of the base folder, with Stable Diffusion 2.1's own configurations.
        cave: Path of a checkpoint whose tensors repeat a single value.
    """
    unet = {"_class_name": "UNet2DConditionModel", **UNET, **FULL_UNET}
    vae = {"_class_name": "AutoencoderKL", **VAE, "block_out_channels": [128, 256, 512, 512]}
    for part, config in (("unet", unet), ("vae", vae)):
        (base / part).mkdir(parents=True)
        (base / part / "config.json").write_text(json.dumps(config))
        (base / part / "diffusion_pytorch_model.safetensors").touch()
    (base / "scheduler").mkdir()
    (base / "scheduler" / "scheduler_config.json").write_text(json.dumps(SCHEDULER))
    with torch.device("meta"):
        state = CaVE().state_dict()
    torch.save({name: torch.ones(()).expand(v.shape) for name, v in state.items()}, cave)
