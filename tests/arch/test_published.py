"""The published networks, each built once: keys, numbers, gradients, error in bfloat16."""

import re
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from basicsr.archs import build_network
from naive_forms import NAIVE
from network_tools import error, gradient_sizes, input_for, restore
from small_networks import APART_FROM_THE_IMAGE
from vector_tools import filled, image, parameter_count, published_shapes, shapes, vectors

from cir_arch.layers.channel_attention import ChannelAttention

ART_FOR_JPEG = {
    "window_size": 7,
    "interval": (18, 18, 13, 13, 7, 7),
    "img_range": 255.0,
}
GRL_B = {
    "embed_dim": 180,
    "local_connection": True,
    "window_size": 8,
    "stripe_size": (16, 32),
}
HAT_S = {"embed_dim": 144, "compress_ratio": 24, "squeeze_factor": 24}


@dataclass(frozen=True)
class Published:
    """A network whose numbers are known."""

    name: str
    parameters: int
    bf16_error: float
    """Bound on the root mean square error under bfloat16, over the image's standard deviation.

    For these random weights; about twice what a CPU without bfloat16 instructions gives.
    """
    arguments: dict = field(default_factory=dict)
    least_gradient: float = 1e-5
    """Bound for a parameter that counts, over the usual gradient. Deep networks have small ones."""


PUBLISHED = {
    "promptcir": Published("PromptCIR", 34_754_927, 0.03),
    "ucip": Published("UCIP", 11_424_291, 0.15),
    "cave": Published("CaVE", 74_887_428, 0.04),
    "hat_x4": Published("HAT", 20_772_507, 0.05),
    "hat_s_x2": Published("HAT", 9_473_471, 0.05, {**HAT_S, "upscale": 2}),
    "hat_x1": Published("HAT", 20_477_083, 0.05, {"upscale": 1}),
    "hft": Published("HFT", 33_859_795, 0.05),
    "fbcnn": Published("FBCNN", 71_921_796, 0.03),
    "scunet_large": Published("SCUNet", 69_086_604, 0.05),
    "unifyformer": Published("UnifyFormer", 28_500_431, 0.02),
    "safmn_bcie": Published("SAFMN_BCIE", 18_414_083, 0.04),
    "art_car": Published("ART", 16_149_783, 0.006, ART_FOR_JPEG),
    "art_dn": Published("ART", 16_149_783, 0.025),
    "grl_s_w12": Published("GRL", 3_120_227, 0.03, {"window_size": 12, "stripe_size": (24, 48)}),
    "grl_b_w8": Published(
        "GRL",
        19_805_263,
        0.25,
        {
            **GRL_B,
            "depths": (4, 4, 8, 8, 8, 4, 4),
            "num_heads_window": (3,) * 7,
            "num_heads_stripe": (3,) * 7,
        },
        least_gradient=1e-7,
    ),
    "grl_b4": Published(
        "GRL",
        8_453_683,
        0.04,
        {**GRL_B, "num_heads_window": (3,) * 4, "num_heads_stripe": (3,) * 4},
    ),
    "promptir": Published("PromptIR", 35_592_263, 0.08),
    "fftformer": Published("FFTformer", 16_560_474, 0.15),
    "fftformer_448": Published("FFTformer", 11_439_066, 0.07, {"num_blocks": (4, 4, 8)}),
    "dair": Published("DAIR", 21_202_569, 0.12),
    "restormer": Published("Restormer", 26_126_644, 0.08),
    "restormer_biasfree": Published("Restormer", 26_111_668, 0.08, {"LayerNorm_type": "BiasFree"}),
    "retinexformer": Published("Retinexformer", 1_605_701, 0.05),
    "diffir_s1_x1": Published("DiffIR", 24_853_318, 0.035, {"stage": 1}),
    "diffir_s2_x1": Published("DiffIR", 25_023_046, 0.025),
    "srformer_light_x4": Published(
        "SRFormer",
        872_748,
        0.025,
        {
            "window_size": 16,
            "embed_dim": 60,
            "depths": (6,) * 4,
            "num_heads": (6,) * 4,
            "mlp_ratio": 2.0,
            "upsampler": "pixelshuffledirect",
            "upscale": 4,
        },
    ),
    "srformer_real_x4": Published(
        "SRFormer",
        10_358_863,
        0.04,
        {"window_size": 24, "mlp_ratio": 2.0, "upsampler": "nearest+conv", "upscale": 4},
    ),
    "srformer_x1_w32": Published("SRFormer", 15_256_299, 0.035),
    "srformer_x2": Published(
        "SRFormer",
        10_376_783,
        0.03,
        {"window_size": 22, "mlp_ratio": 2.0, "upsampler": "pixelshuffle", "upscale": 2},
    ),
    "swin2sr_csr_x4": Published(
        "Swin2SR",
        12_244_598,
        0.02,
        {"window_size": 8, "img_range": 1.0, "upsampler": "pixelshuffle_aux", "upscale": 4},
    ),
    "swin2sr_jpeg": Published("Swin2SR", 11_843_247, 0.006),
    "jdec": Published("JDEC", 38_912_035, 0.03),
}
CALLS = {
    "out": lambda network, x: network(x),
    "image": lambda network, x: network(x),
    "quality": lambda network, x: network(x, return_quality=True)[1],
    "aux": lambda network, x: network(x, return_aux=True)[1],
    "coefficients": lambda network, x: network(x) - 0.5,
    "embedding": lambda network, x: network.embed(x),
    "image_q0.3": lambda network, x: network(x, 0.3),
    "task0": lambda network, x: network(x, 0),
    "task3": lambda network, x: network(x, torch.tensor([3])),
}
SEEDED_CALLS = {
    "gt": lambda network, v: network(v.input, **true_images(v)),
    "prior": lambda network, v: network(v.input, **true_images(v), return_prior=True)[1],
    "noise0": lambda network, v: network(v.input, noise=torch.zeros(1, 256)),
    "noise": lambda network, v: network(v.input, noise=noise(v)),
}
"""These get the vector, since further inputs are drawn from its seed."""

FURTHER_INPUTS = {"diffir_s1_x1": lambda x: {"gt": x.flip(-1)}}
"""Without these, the network restores no image."""


def true_images(vector):
    height, width = vector.input.shape[2:]
    return {"gt": image(height, width, vector.seed + 7000, len(vector.input))}


def noise(vector):
    generator = np.random.Generator(np.random.PCG64(vector.seed + 5000))
    shape = len(vector.input), 256
    return torch.from_numpy(generator.standard_normal(shape, dtype=np.float32))


def inputs_of(key, x):
    """Return the further inputs of a network for an image."""
    return FURTHER_INPUTS[key](x) if key in FURTHER_INPUTS else {}


def called(network, vector):
    if vector.call in SEEDED_CALLS:
        return SEEDED_CALLS[vector.call](network, vector)
    return CALLS[vector.call](network, vector.input)


@pytest.fixture(scope="module", params=PUBLISHED)
def key(request):
    """Its name among the vectors. Tests run network by network, so that one is held at a time."""
    return request.param


@pytest.fixture(scope="module")
def network(key):
    published = PUBLISHED[key]
    return filled(build_network({"type": published.name, **published.arguments}))


def smallest(network):
    """Return an image of one cell of what the network divides.

    Where there are no cells, of more pixels than ART's longest interval.
    """
    multiple = network.facts.size_multiple
    side = max(multiple, 8) if multiple > 1 else 20
    return input_for(network.facts, side, side, seed=3)


def test_keys_shapes_and_parameters(key, network):
    expected, stated = published_shapes(key)
    assert shapes(network) == expected
    assert parameter_count(network) == stated == PUBLISHED[key].parameters


def test_outputs(key, network):
    for vector in vectors(key):
        with torch.no_grad():
            found = called(network, vector)
        if vector.call == "quality":
            found, expected = found.logit(), vector.expected.logit()
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-3)
        else:
            assert vector.deviation(found) <= 1, (vector.call, vector.input.shape)


def test_naive_form_gives_the_same_outputs(key, network):
    """So that what is compared with it elsewhere is compared with the release."""
    published = PUBLISHED[key]
    with torch.device("meta"):
        naive = NAIVE[published.name](**published.arguments)
    naive.load_state_dict(network.state_dict(), assign=True)
    fitting = [
        vector
        for vector in vectors(key)
        if vector.call in ("out", "image", "task0", "gt", "noise", "coefficients")
        and all(side % network.facts.size_multiple == 0 for side in vector.input.shape[2:])
    ]
    vector = min(fitting, key=lambda vector: vector.input.numel())
    with torch.inference_mode():
        found = called(naive.eval(), vector)
    assert vector.deviation(found) <= 1


def test_error_in_bfloat16(key, network):
    x = smallest(network)
    inputs = inputs_of(key, x)
    expected = restore(network, x, **inputs)
    assert error(restore(network, x, "bf16", **inputs), expected) < PUBLISHED[key].bf16_error


def test_every_parameter_gets_a_gradient(key, network):
    """But those that the image does not depend on; rounding leaves some of theirs above zero.

    The ReLUs of channel attention are few, and these weights shut all of them in some blocks.
    """
    shut = [m.attention[1].bias for m in network.modules() if isinstance(m, ChannelAttention)]
    with torch.no_grad():
        for bias in shut:
            bias += 10
    x = smallest(network)
    sizes = gradient_sizes(network, x, **inputs_of(key, x))
    network.zero_grad(set_to_none=True)
    pattern = APART_FROM_THE_IMAGE.get(PUBLISHED[key].name, "(?!)")
    dead = {name for name in sizes if re.fullmatch(pattern, name)}
    least = PUBLISHED[key].least_gradient
    usual = sorted(sizes.values())[len(sizes) // 2]
    assert {name for name, size in sizes.items() if size <= least * usual} == dead
