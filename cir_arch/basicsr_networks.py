"""BasicSR's own networks: how they are recognised, described and given padded images.

BasicSR is imported when one of them is built, not before.

SwinIR: Liang et al., ICCV Workshops 2021, https://arxiv.org/abs/2108.10257. RRDBNet: Wang et al.,
ESRGAN, ECCV Workshops 2018, https://arxiv.org/abs/1809.00219.
"""

import math
from importlib import import_module
from typing import Any

from torch import Tensor, nn

from cir_arch.facts import NetworkFacts
from cir_arch.layers.padding import PaddingRule, mirror_beyond
from cir_arch.layers.receptive_field import Span, radius
from cir_arch.layers.upsampling import tail_of
from cir_arch.network import Entry, Weights, add
from cir_arch.state_dict import State, entry_count, ratio

_SWINIR = "basicsr.archs.swinir_arch", "SwinIR"
_RRDBNET = "basicsr.archs.rrdbnet_arch", "RRDBNet"

_JPEG_WINDOW = 7
"""Window size of the published SwinIR networks for JPEG; those for noise and scaling have 8."""


def swinir_arguments(state: State) -> dict[str, Any] | None:
    """Read the arguments of BasicSR's ``SwinIR`` off a state dict.

    ``img_range`` cannot be deduced. The published networks that keep the size (``upsampler: ''``)
    have 255 if their window is 7 (JPEG), all others 1; that is the rule here. ``img_size`` does not
    change the output; it is taken from the saved masks, or is the first multiple of the window from
    64 on.
    """
    group = "layers.0.residual_group"
    table = f"{group}.blocks.0.attn.relative_position_bias_table"
    if not {"conv_first.weight", table, f"{group}.blocks.0.attn.qkv.weight"} <= state.keys():
        return None
    if any(".overlap_attn." in name for name in state):  # HAT
        return None
    embed_dim, in_chans = state["conv_first.weight"].shape[:2]
    groups = [f"layers.{i}.residual_group.blocks." for i in range(entry_count(state, "layers."))]
    entries = "attn.relative_position_bias_table"
    window = (math.isqrt(len(state[table])) + 1) // 2
    upsampler, upscale = tail_of(state)
    masks = (value for name, value in state.items() if name.endswith(".attn_mask"))
    mask = next(masks, None)
    windows = math.isqrt(len(mask)) if mask is not None else -(-64 // window)
    return {
        # patch_size: always 1. Dropout and stochastic depth: for training only.
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


def rrdbnet_arguments(state: State) -> dict[str, Any] | None:
    """Read the arguments of BasicSR's ``RRDBNet`` off a state dict.

    The first convolution has as many input channels as the last one has outputs (scale 4), four
    times (2) or sixteen times as many (1).
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


def basicsr_facts(network: nn.Module) -> NetworkFacts | None:
    """Return the facts of BasicSR's SwinIR or RRDBNet; None for another network."""
    if _is_a(network, _SWINIR):
        return _swinir_facts(network)
    return _rrdbnet_facts(network) if _is_a(network, _RRDBNET) else None


def _is_a(network: nn.Module, name: tuple[str, str]) -> bool:
    """Whether a network is of a class of BasicSR's, which need not be imported to tell."""
    return any((cls.__module__, cls.__qualname__) == name for cls in type(network).__mro__)


def _swinir_facts(network: Any) -> NetworkFacts:
    window: int = network.layers[0].residual_group.blocks[0].attn.window_size[0]
    return _facts_of_swinir(window, network.upscale, network.conv_first.in_channels)


def _facts_of_swinir(window: int, scale: int, in_channels: int) -> NetworkFacts:
    """Without float16, which was not tried; others report that it fails."""
    return NetworkFacts(
        size_multiple=window,
        min_size=1,
        scale=scale,
        halo=None,
        in_channels=in_channels,
        precisions=frozenset({"fp32", "bf16"}),
        pads_itself=False,
    )


def _rrdbnet_facts(network: Any) -> NetworkFacts:
    shrunk = {1: 4, 2: 2}.get(network.scale, 1)
    channels = network.conv_first.in_channels // shrunk**2
    return _facts_of_rrdbnet(len(network.body), network.scale, channels)


def _facts_of_rrdbnet(blocks: int, scale: int, in_channels: int) -> NetworkFacts:
    shrunk = 4 // scale

    def input_of(output: Span) -> Span:
        enlarged = output.convolutions(3).enlargement(2).convolutions(1).enlargement(2)
        return enlarged.convolutions(15 * blocks + 2).reduction(shrunk)

    return NetworkFacts(
        size_multiple=shrunk,
        min_size=1,
        scale=scale,
        halo=radius(input_of, shrunk, scale),
        in_channels=in_channels,
        precisions=frozenset({"fp32", "bf16", "fp16"}),
        padding=PaddingRule(shrunk, "reflect") if shrunk > 1 else None,
        pads_itself=False,
    )


def basicsr_padded(network: nn.Module, image: Tensor, facts: NetworkFacts) -> Tensor:
    """Pad images (B, C, H, W) for one of these networks, at bottom and right.

    SwinIR's sides are padded as in the test script of its authors: by the image mirrored with its
    edge, to the next multiple of the window that is larger, even where a side is a multiple
    already. RRDBNet's are padded to multiples by reflection.
    """
    if _is_a(network, _SWINIR):
        for axis in (-2, -1):
            image = mirror_beyond(image, axis, facts.size_multiple)
        return image
    return facts.padding.pad(image) if facts.padding else image


def _class(name: tuple[str, str]) -> type[nn.Module]:
    module, attribute = name
    found: type[nn.Module] = getattr(import_module(module), attribute)
    return found


add(
    Entry(
        name="SwinIR",
        package="basicsr",
        load=lambda: _class(_SWINIR),
        defaults={
            "img_size": 64,
            "in_chans": 3,
            "embed_dim": 96,
            "depths": (6,) * 4,
            "num_heads": (6,) * 4,
            "window_size": 7,
            "mlp_ratio": 4.0,
            "qkv_bias": True,
            "ape": False,
            "patch_norm": True,
            "upscale": 2,
            "img_range": 1.0,
            "upsampler": "",
            "resi_connection": "1conv",
        },
        arguments_from=swinir_arguments,
        paper="[Liang et al., ICCVW 2021](https://arxiv.org/abs/2108.10257), BasicSR's own; here"
        " the published size for colour JPEGs",
        gmacs=212.57,
        described=(11_492_067, _facts_of_swinir(window=7, scale=1, in_channels=3)),
        published={
            "img_size": 126,
            "window_size": 7,
            "embed_dim": 180,
            "depths": (6,) * 6,
            "num_heads": (6,) * 6,
            "mlp_ratio": 2.0,
            "upscale": 1,
            "img_range": 255.0,
            "upsampler": "",
        },
        small={
            "img_size": 16,
            "window_size": 4,
            "embed_dim": 12,
            "depths": [2, 3],
            "num_heads": [2, 3],
            "upscale": 1,
        },
        weights=(
            Weights(
                "https://github.com/JingyunLiang/SwinIR/releases/tag/v0.0",
                "006_colorCAR_DFWB_s126w7_SwinIR-M_jpeg{10,20,30,40}.pth",
                "params",
                "Apache-2.0",
                "colour JPEG, one file per quality; the release has grey JPEG and real-world"
                " super-resolution too",
            ),
        ),
        in_spandrel=True,
    )
)
add(
    Entry(
        name="RRDBNet",
        package="basicsr",
        load=lambda: _class(_RRDBNET),
        defaults={"scale": 4, "num_feat": 64, "num_block": 23, "num_grow_ch": 32},
        arguments_from=rrdbnet_arguments,
        paper="[Wang et al., ECCVW 2018](https://arxiv.org/abs/1809.00219), BasicSR's own,"
        " super-resolution x4",
        gmacs=293.71,
        described=(16_697_987, _facts_of_rrdbnet(blocks=23, scale=4, in_channels=3)),
        published={"num_in_ch": 3, "num_out_ch": 3},
        small={
            "num_in_ch": 3,
            "num_out_ch": 3,
            "num_feat": 8,
            "num_block": 2,
            "num_grow_ch": 4,
        },
        weights=(
            Weights(
                "https://github.com/xinntao/Real-ESRGAN/releases/tag/v0.1.0",
                "RealESRGAN_x4plus.pth",
                "params_ema",
                "BSD-3-Clause",
                "super-resolution x4 of real photographs: blur, noise, JPEG",
            ),
        ),
        in_spandrel=True,
    )
)
