import pytest
import torch
import torch.nn.functional as F
from vector_tools import parameter_count

from cir_arch.layers.norm import LayerNorm
from cir_arch.promptir_arch import ImagePrompt, PromptIR
from cir_host.errors import UserError


def small(**arguments):
    torch.manual_seed(0)
    sizes = {"dim": 8, "num_blocks": (1, 2, 1, 1), "num_refinement_blocks": 1, "prompt_len": 3}
    prompts = {"prompt_dims": (8, 12, 16), "prompt_sizes": (9, 5, 3)}
    return PromptIR(**{**sizes, **prompts, **arguments})


def test_network_that_promptcir_is_compared_with():
    with torch.device("meta"):
        network = PromptIR(prompt_len=7)
    assert parameter_count(network) == 36_543_885


def test_zero_last_starts_as_the_identity():
    x = torch.rand(1, 3, 13, 10)
    assert torch.equal(small(zero_last=True)(x), x)
    assert not torch.allclose(small()(x), x)


def test_unused_parameters_are_named():
    with torch.device("meta"):
        network = PromptIR()
    unused = [network.get_submodule(name) for name in network.unused_modules]
    assert sum(parameter_count(module) for module in unused) == 215_296


@pytest.mark.parametrize("size", [(3, 5), (6, 6), (16, 20)])
def test_prompt_is_a_mixture_resized_without_antialias(size):
    """Weights from spatial means; interpolation between pixel centres; convolution comes last."""
    prompt = ImagePrompt(6, 4, 5, 6)
    x = torch.randn(2, *size, 6)
    weights = (x.mean((1, 2)) @ prompt.linear_layer.weight.T + prompt.linear_layer.bias).softmax(1)
    mixed = (weights[:, :, None, None, None] * prompt.prompt_param).sum(1)
    rows, columns = (_interpolation(6, side) for side in size)
    resized = torch.einsum("yi,bcij,xj->bcyx", rows, mixed, columns)
    expected = F.conv2d(resized, prompt.conv3x3.weight, padding=1).permute(0, 2, 3, 1)
    torch.testing.assert_close(prompt(x), expected, rtol=1e-4, atol=1e-5)


def test_norm_of_a_dim_map():
    """Tells an epsilon of 1e-5 from 1e-6."""
    x = 0.005 * torch.randn(2, 3, 4, 6)
    centred = x - x.mean(-1, keepdim=True)
    expected = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    torch.testing.assert_close(LayerNorm(6)(x), expected, rtol=1e-4, atol=1e-5)


def _interpolation(length, out_length):
    """Matrix (out_length, length) of linear interpolation at pixel centres, clamped at the ends."""
    matrix = torch.zeros(out_length, length)
    for i in range(out_length):
        place = min(max((i + 0.5) * length / out_length - 0.5, 0), length - 1)
        left = min(int(place), length - 2)
        matrix[i, left] = 1 - (place - left)
        matrix[i, left + 1] = place - left
    return matrix


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"num_blocks": (1, 1, 1)}, "num_blocks"),
        ({"dim": 9}, "dim"),
        ({"heads": (1, 2, 5, 8)}, "heads"),
        ({"prompt_dims": (8, 16)}, "prompt_dims"),
        ({"prompt_dims": (8, 13, 16)}, "prompt_dims"),
        ({"prompt_sizes": (8,)}, "prompt_sizes"),
    ],
)
def test_contradictory_arguments_are_named(arguments, named):
    with pytest.raises(UserError, match=named):
        small(**arguments)
