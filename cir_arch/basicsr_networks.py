"""BasicSR's own networks among ours: recognised, described, and run on images of any size.

SwinIR: Liang et al., ICCV Workshops 2021, https://arxiv.org/abs/2108.10257. RRDBNet: Wang et al.,
ESRGAN, ECCV Workshops 2018, https://arxiv.org/abs/1809.00219.
"""

import math
from typing import Any

from basicsr.archs.rrdbnet_arch import RRDBNet
from basicsr.archs.swinir_arch import SwinIR
from torch import Tensor, nn

from cir_arch.facts import NetworkFacts
from cir_arch.layers.padding import PaddingRule, crop_to, mirror_beyond
from cir_arch.state_dict import State, entry_count, ratio
from cir_host.errors import UserError

_JPEG_WINDOW = 7
"""Window size of the published SwinIR networks for JPEG; those for noise and scaling have 8."""


def swinir_arguments(state: State) -> dict[str, Any] | None:
    """Read the arguments of BasicSR's ``SwinIR`` off a state dict.

    Nothing tells ``img_range``. The published networks that keep the size (``upsampler: ''``) have
    255 where their window is 7 (JPEG), all others 1; that is the rule here. ``img_size`` changes
    nothing and is that of the saved masks, or the first multiple of the window from 64 on.
    """
    group = "layers.0.residual_group"
    table = f"{group}.blocks.0.attn.relative_position_bias_table"
    if not {"conv_first.weight", table} <= state.keys():
        return None
    if any(".overlap_attn." in name for name in state):  # HAT
        return None
    embed_dim, in_chans = state["conv_first.weight"].shape[:2]
    groups = [f"layers.{i}.residual_group.blocks." for i in range(entry_count(state, "layers."))]
    entries = "attn.relative_position_bias_table"
    window = (math.isqrt(len(state[table])) + 1) // 2
    upsampler, upscale = _upsampling(state, in_chans)
    masks = (value for name, value in state.items() if name.endswith(".attn_mask"))
    mask = next(masks, None)
    windows = math.isqrt(len(mask)) if mask is not None else -(-64 // window)
    return {
        # patch_size: 1 in all of them. Rates of dropping: only for training.
        "img_size": window * windows,
        "in_chans": in_chans,
        "embed_dim": embed_dim,
        "depths": [entry_count(state, blocks) for blocks in groups],
        "num_heads": [state[f"{blocks}0.{entries}"].shape[1] for blocks in groups],
        "window_size": window,
        "mlp_ratio": ratio([(embed_dim, len(state[f"{group}.blocks.0.mlp.fc1.weight"]))], 4.0),
        "qkv_bias": f"{group}.blocks.0.attn.qkv.bias" in state,
        "ape": "absolute_pos_embed" in state,
        "patch_norm": "patch_embed.norm.weight" in state,
        "upscale": upscale,
        "img_range": 255.0 if window == _JPEG_WINDOW and not upsampler else 1.0,
        "upsampler": upsampler,
        "resi_connection": "3conv" if "conv_after_body.0.weight" in state else "1conv",
    }


def _upsampling(state: State, in_chans: int) -> tuple[str, int]:
    """Return ``upsampler`` and ``upscale`` of SwinIR."""
    if "conv_up1.weight" in state:
        return "nearest+conv", 4
    weights = [v for n, v in state.items() if n.startswith("upsample.") and n.endswith("weight")]
    if "conv_before_upsample.0.weight" in state:
        steps = (math.isqrt(len(weight) // weight.shape[1]) for weight in weights)
        return "pixelshuffle", math.prod(steps)
    if weights:
        return "pixelshuffledirect", math.isqrt(len(weights[0]) // in_chans)
    return "", 1


def rrdbnet_arguments(state: State) -> dict[str, Any] | None:
    """Read the arguments of BasicSR's ``RRDBNet`` off a state dict.

    The scale follows from how often the first convolution has the channels of the last: once (4),
    four times (2) or sixteen times (1).
    """
    if not {"conv_first.weight", "body.0.rdb1.conv1.weight", "conv_hr.weight"} <= state.keys():
        return None
    num_feat, unshuffled = state["conv_first.weight"].shape[:2]
    num_out_ch = len(state["conv_last.weight"])
    scale = {4: 2, 16: 1}.get(unshuffled // num_out_ch, 4)
    return {
        "num_in_ch": unshuffled // (4 // scale) ** 2,
        "num_out_ch": num_out_ch,
        "scale": scale,
        "num_feat": num_feat,
        "num_block": entry_count(state, "body."),
        "num_grow_ch": len(state["body.0.rdb1.conv1.weight"]),
    }


RECOGNISERS = {"SwinIR": swinir_arguments, "RRDBNet": rrdbnet_arguments}
"""What reads the arguments off a state dict, by registry name."""


def facts_of(network: nn.Module) -> NetworkFacts | None:
    """Return the facts of a network of ours or of BasicSR's SwinIR and RRDBNet, else None."""
    facts = getattr(network, "facts", None)
    if isinstance(facts, NetworkFacts):
        return facts
    if isinstance(network, SwinIR):
        return _swinir_facts(network)
    return _rrdbnet_facts(network) if isinstance(network, RRDBNet) else None


def _swinir_facts(network: SwinIR) -> NetworkFacts:
    """Its window; float16 was not tried, others report that it fails."""
    window: int = network.layers[0].residual_group.blocks[0].attn.window_size[0]
    return NetworkFacts(
        size_multiple=window,
        min_size=1,
        scale=network.upscale,
        halo=None,
        in_channels=network.conv_first.in_channels,
        precisions=frozenset({"fp32", "bf16"}),
        pads_itself=False,
    )


def _rrdbnet_facts(network: RRDBNet) -> NetworkFacts:
    """A pixel for each convolution; those after the upsampling reach less than two more."""
    shrunk = {1: 4, 2: 2}.get(network.scale, 1)
    convolutions = 2 + 15 * len(network.body)
    return NetworkFacts(
        size_multiple=shrunk,
        min_size=1,
        scale=network.scale,
        halo=shrunk * (convolutions + 3),
        in_channels=network.conv_first.in_channels // shrunk**2,
        precisions=frozenset({"fp32", "bf16", "fp16"}),
        padding=PaddingRule(shrunk, "reflect") if shrunk > 1 else None,
        pads_itself=False,
    )


def run(network: nn.Module, image: Tensor, **inputs: Any) -> Any:
    """Call a network on images (B, C, H, W) of any size, also one that does not pad by itself.

    SwinIR's sides are padded as in the test that its authors publish: by the image mirrored with
    its edge, to the next multiple of the window that is larger, also where a side is a multiple
    already. RRDBNet's are padded to multiples by reflection.

    Args:
        network: Ours, SwinIR or RRDBNet.
        image: What it takes.
        inputs: What else it takes, see ``NetworkFacts.extra_inputs``.

    Raises:
        UserError: If the image has other channels than the network takes.
    """
    facts = facts_of(network)
    if facts is None or facts.pads_itself:
        return network(image, **inputs)
    if image.shape[1] != facts.in_channels:
        raise UserError(
            f"{type(network).__name__} is made for images of {facts.in_channels} channels, this"
            f" one has {image.shape[1]}"
        )
    height, width = image.shape[-2:]
    if isinstance(network, SwinIR):
        padded = mirror_beyond(
            mirror_beyond(image, -2, facts.size_multiple), -1, facts.size_multiple
        )
    else:
        padded = facts.padding.pad(image) if facts.padding else image
    return crop_to(network(padded), height * facts.scale, width * facts.scale)
