import pytest
import torch
import torch.nn.functional as F
from network_tools import (
    assert_loads_what_it_saves,
    assert_same_gradients,
    error,
    padded,
    restore,
    without_gradient,
)
from vector_tools import filled, image, parameter_count, published_shapes, shapes, vectors

from cir_arch.layers.norm import LayerNorm
from cir_arch.promptir_arch import ImagePrompt, PromptIR
from cir_host.errors import UserError


@pytest.fixture(scope="module")
def published():
    return filled(PromptIR())


def small(**arguments):
    torch.manual_seed(0)
    sizes = {"dim": 8, "num_blocks": (1, 2, 1, 1), "num_refinement_blocks": 1, "prompt_len": 3}
    prompts = {"prompt_dims": (8, 12, 16), "prompt_sizes": (9, 5, 3)}
    return PromptIR(**{**sizes, **prompts, **arguments})


def test_state_dict_and_size_are_the_published_ones():
    with torch.device("meta"):
        network = PromptIR()
        seven = PromptIR(prompt_len=7)
    expected, count = published_shapes("promptir")
    assert shapes(network) == expected
    assert parameter_count(network) == count == 35_592_263
    assert parameter_count(seven) == 36_543_885


def test_unused_parameters_are_named():
    with torch.device("meta"):
        network = PromptIR()
    unused = [network.get_submodule(name) for name in network.unused_modules]
    assert sum(parameter_count(module) for module in unused) == 215_296


@pytest.mark.parametrize("vector", vectors("promptir"), ids=lambda v: f"{tuple(v.input.shape)}")
def test_images_are_the_published_ones(published, vector):
    assert vector.deviation(restore(published, vector.input)) <= 1


def test_images_of_a_batch_do_not_mix(published):
    pair = image(16, 24, batch=2)
    one_by_one = torch.cat([restore(published, x[None]) for x in pair])
    torch.testing.assert_close(restore(published, pair), one_by_one, rtol=0, atol=1e-4)


def test_bfloat16_is_close(published):
    vector = vectors("promptir")[0]
    assert error(restore(published, vector.input, "bf16"), vector.expected) < 0.08


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_small_network_in_low_precision(precision):
    network, x = small(), image(40, 56)
    assert error(restore(network, x, precision), restore(network, x)) < 0.02


def test_pads_to_8_by_reflection():
    network, x = small(), image(21, 30)
    expected = restore(network, padded(x, 3, 2, "reflect"))[..., :21, :30]
    torch.testing.assert_close(restore(network, x), expected, rtol=0, atol=1e-6)


def test_side_too_short_to_reflect_is_repeated():
    network, x = small(), image(1, 16)
    expected = restore(network, padded(x, 7, 0, "edge"))[..., :1, :]
    torch.testing.assert_close(restore(network, x), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (5, 4), (8, 8), (33, 17)])
def test_any_size_comes_back(size):
    out = restore(small(), image(*size))
    assert out.shape == (1, 3, *size)
    assert out.isfinite().all()


def test_shape_on_the_meta_device():
    with torch.device("meta"):
        assert PromptIR()(torch.empty(2, 3, 37, 50)).shape == (2, 3, 37, 50)


def test_every_used_parameter_gets_a_gradient():
    network = small()
    unused = {f"{name}.weight" for name in network.unused_modules}
    assert without_gradient(network, image(32, 40)) == unused


def test_recomputing_blocks_changes_no_gradient():
    network = small()
    used = small(use_checkpoint=True)
    for name in network.unused_modules:
        delattr(network, name)
        delattr(used, name)
    assert_same_gradients(network, used, image(16, 24))


def test_small_network_loads_what_it_saves(tmp_path):
    assert_loads_what_it_saves(small, tmp_path / "net.pth")


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
