"""Every network against its naive form, in float64: other sizes, seeds and batches, gradients.

In float64 another epsilon of a norm, the tanh form of GELU or another interpolation shows at any
input; the published vectors, in float32, pass them.
"""

import pytest
import torch
from basicsr.archs import build_network
from naive_forms import NAIVE
from network_tools import gradients, input_for
from small_networks import SMALL
from vector_tools import fill, shapes

import cir_arch  # noqa: F401

CELLS = [(1, 1, 1), (1, 3, 2), (2, 1, 3)]
"""Height and width in the network's multiple, batch."""
SIZES = {  # where a network is not bound to multiples, in pixels
    "ART": [(8, 21, 2), (16, 24, 1), (35, 22, 2)],
    "SAFMN_BCIE": [(18, 50, 2), (30, 22, 1)],
    "UCIP": [(5, 9, 3), (16, 7, 1)],
}


@pytest.mark.parametrize("name", NAIVE)
def test_network_and_gradients_are_those_of_the_naive_form(name):
    network = build_network({"type": name, **SMALL[name]})
    naive = NAIVE[name](**SMALL[name])
    assert shapes(network) == shapes(naive)
    for key, buffer in naive.named_buffers():
        assert torch.equal(network.get_buffer(key), buffer), key
    weights = fill(network.state_dict())
    for model in (network, naive):
        model.load_state_dict(weights)
        model.double().eval()
    multiple = network.facts.size_multiple
    sizes = [(rows * multiple, columns * multiple, batch) for rows, columns, batch in CELLS]
    for height, width, batch in sizes + SIZES.get(name, []):
        x = input_for(network.facts, height, width, seed=height + width, batch=batch).double()
        codec = {"codec": torch.arange(batch)} if name == "UCIP" else {}
        with torch.no_grad():
            assert_close(network(x, **codec), naive(x, **codec), 1e-10, f"{x.shape}")
        ours, theirs = gradients(network, x, **codec), gradients(naive, x, **codec)
        for key, gradient in theirs.items():
            if gradient is None:
                assert ours[key] is None, key
            else:
                assert_close(ours[key], gradient, 1e-6, f"{key} at {x.shape}")


def assert_close(found, expected, tolerance, message):
    """Compare in units of the largest value expected."""
    scale = expected.abs().max() + 1e-6
    difference = ((found - expected).abs().max() / scale).item()
    assert difference <= tolerance, f"{message}: {difference}"
