import pytest
import torch
from basicsr.archs import build_network
from naive_forms import NAIVE
from network_tools import error, gradients, restore
from small_networks import SMALL
from vector_tools import filled, image

from cir_arch import recognise
from cir_arch.layers.norm import BiasFreeLayerNorm
from cir_arch.promptir_arch import PromptIR
from cir_arch.restormer_arch import Restormer
from cir_host.errors import UserError


def small(**arguments):
    torch.manual_seed(0)
    return Restormer(**{**SMALL["Restormer"], **arguments})


def of_the_authors(**changes):
    """``network_g`` as their options files write it."""
    return {
        "type": "Restormer",
        "inp_channels": 3,
        "out_channels": 3,
        "dim": 8,
        "num_blocks": [1, 1, 1, 1],
        "num_refinement_blocks": 1,
        "heads": [1, 2, 4, 8],
        "ffn_expansion_factor": 2.66,
        "bias": False,
        "LayerNorm_type": "WithBias",
        "dual_pixel_task": False,
        **changes,
    }


def test_sections_of_the_authors_options_files():
    network = build_network(of_the_authors())
    assert network.state_dict().keys() == small().state_dict().keys()
    grey = build_network(of_the_authors(inp_channels=1, out_channels=1, LayerNorm_type="BiasFree"))
    assert restore(grey, image(9, 13)[:, :1]).shape == (1, 1, 9, 13)
    norms = [m for m in grey.modules() if isinstance(m, BiasFreeLayerNorm)]
    assert len(norms) == 2 * 8  # two in each block


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bias": True}, "bias: true is not supported"),
        ({"dual_pixel_task": True, "inp_channels": 6}, "dual_pixel_task: true is not supported"),
        ({"inp_channels": 1}, r"out_channels: 3 differs from inp_channels \(1\)"),
        ({"LayerNorm_type": "RMS"}, "LayerNorm_type: 'RMS' is unknown; give one of WithBias, Bi"),
        ({"heads": [1, 2, 3, 8]}, "heads: 3 heads cannot share 32 channels"),
        ({"num_blocks": [1, 1]}, "num_blocks"),
    ],
)
def test_what_cannot_be_built_is_named(changes, message):
    with pytest.raises(UserError, match=message):
        build_network(of_the_authors(**changes))


def test_channels_of_an_image_are_named_as_the_argument():
    with pytest.raises(UserError, match="inp_channels: the network takes images of 3 channels"):
        small()(image(8, 8)[:, :1])


def test_norms_without_bias_by_their_formula():
    """In float64; the weights of ``fill`` let the mean matter."""
    sizes = {**SMALL["Restormer"], "LayerNorm_type": "BiasFree"}
    network, naive = (filled(cls(**sizes)).double() for cls in (Restormer, NAIVE["Restormer"]))
    x = image(16, 24, batch=2).double()
    torch.testing.assert_close(restore(network, x), restore(naive, x), rtol=0, atol=1e-10)
    ours, theirs = gradients(network, x), gradients(naive, x)
    for key, gradient in theirs.items():
        torch.testing.assert_close(ours[key], gradient, rtol=0, atol=1e-8, msg=key)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_norms_without_bias_in_low_precision(precision):
    network, x = filled(small(LayerNorm_type="BiasFree")), image(40, 33)
    assert error(restore(network, x, precision), restore(network, x)) < 0.05


def test_a_norm_without_bias_keeps_the_precision_of_its_input():
    norm, x = BiasFreeLayerNorm(4), torch.randn(1, 2, 3, 4) + 5
    assert norm(x.bfloat16()).dtype == torch.bfloat16
    # rounded once, at the end: the deviation about a large mean is not computed in bfloat16
    exact = norm(x.bfloat16().float())
    torch.testing.assert_close(norm(x.bfloat16()).float(), exact, rtol=2**-8, atol=0)


@pytest.mark.parametrize("extra", ["output.bias", "skip_conv.weight"])
def test_weights_of_kinds_that_are_not_supported_are_not_recognised(extra):
    state = small().state_dict()
    assert recognise(state).type == "Restormer"
    assert recognise({**state, extra: torch.zeros(3)}) is None


@pytest.mark.parametrize("prompt_len", [1, 5])
def test_prompts_make_it_another_network(prompt_len):
    with torch.device("meta"):
        state = PromptIR(**{**SMALL["PromptIR"], "prompt_len": prompt_len}).state_dict()
    assert Restormer.arguments_from(state) is None
    assert recognise(state).type == "PromptIR"
