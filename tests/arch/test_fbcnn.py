import pytest
import torch
from network_tools import (
    assert_same_gradients,
    error,
    padded,
    restore,
    without_gradient,
)
from vector_tools import filled, image, parameter_count, published_shapes, shapes

from cir_arch.fbcnn_arch import FBCNN
from cir_arch.layers.quality_modulation import QFAttention
from cir_host.errors import UserError


def small(**arguments):
    torch.manual_seed(0)
    return FBCNN(**{"nc": (8, 8, 12, 16), "nb": 2, "quality_nc": 16, **arguments})


def strong(**arguments):
    """A small network whose quality matters."""
    return filled(small(**arguments))


def with_quality(network, x, quality=None):
    with torch.inference_mode():
        return network(x, quality, return_quality=True)


def test_grey_network_by_one_argument():
    with torch.device("meta"):
        network = FBCNN(in_nc=1)
    assert parameter_count(network) == 71_919_490
    assert network.m_tail.weight.shape == (1, 64, 3, 3)
    assert network.facts.in_channels == 1


def test_batch_norm_by_one_argument():
    """Norms after each block's first convolution, which shifts the second to index 3."""
    with torch.device("meta"):
        network = FBCNN(act_mode="BR")
    expected, _ = published_shapes("fbcnn")
    plain = {key.replace("res.2", "res.3"): shape for key, shape in expected.items()}
    entries = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    for key, shape in expected.items():
        if key.endswith("res.0.bias"):
            stem = key.removesuffix("0.bias")
            plain |= {f"{stem}1.{name}": shape for name in entries}
            plain[f"{stem}1.num_batches_tracked"] = ()
    assert shapes(network) == plain


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("act_mode", ["R", "BR"])
def test_small_network_in_low_precision(act_mode, precision):
    network, x = strong(act_mode=act_mode), image(37, 50)
    assert error(restore(network, x, precision), restore(network, x)) < 0.02


def test_weights_in_bfloat16():
    network, x = strong(), image(37, 50)
    expected = restore(network, x)
    with torch.inference_mode():
        out = network.bfloat16()(x.bfloat16(), 0.5)
    assert out.dtype == torch.bfloat16
    assert out.shape == expected.shape


def test_block_by_its_definition():
    """The branch is scaled, its input is not, and the shift is not scaled either."""
    block, x = QFAttention(3, "R", False), torch.randn(2, 3, 5, 6)
    gamma, beta = torch.rand(2, 3, 1, 1), torch.randn(2, 3, 1, 1)
    torch.testing.assert_close(block(x, gamma, beta), x + gamma * block.res(x) + beta)


def test_quality_replaces_the_prediction():
    network, x = strong(), image(16, 24, batch=2)
    blind, predicted = with_quality(network, x)
    assert predicted.shape == (2, 1)
    torch.testing.assert_close(restore(network, x), blind, rtol=0, atol=0)
    given, still_predicted = with_quality(network, x, 0.9)
    torch.testing.assert_close(still_predicted, predicted, rtol=0, atol=0)
    assert (given - blind).abs().max() > 1e-3
    torch.testing.assert_close(with_quality(network, x, predicted)[0], blind)


def test_quality_is_a_number_or_one_per_image():
    network, x = strong(), image(16, 24, batch=2)
    column = torch.tensor([[0.2], [0.8]], dtype=torch.float64)
    with torch.inference_mode():
        both = network(x, column)
        apart = torch.cat([network(x[:1], 0.2), network(x[1:], 0.8)])
        for_all = network(x, torch.tensor([[0.2]]))
        torch.testing.assert_close(both, apart)
        torch.testing.assert_close(for_all, network(x, 0.2), rtol=0, atol=0)


@pytest.mark.parametrize("quality", [30, -0.1, float("nan"), torch.rand(2), torch.rand(3, 1)])
def test_quality_on_another_scale_or_of_another_shape_is_refused(quality):
    with pytest.raises(UserError, match="quality"):
        small()(image(8, 8, batch=2), quality)


def test_pads_to_eight_by_replication():
    network, x = strong(), image(26, 31)
    out, quality = with_quality(network, x)
    expected, expected_quality = with_quality(network, padded(x, 6, 1, "edge"))
    torch.testing.assert_close(out, expected[..., :26, :31], rtol=0, atol=1e-6)
    torch.testing.assert_close(quality, expected_quality)
    assert network.facts.size_multiple == 8


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (8, 3), (16, 16), (33, 17)])
def test_any_size_comes_back(size):
    out, quality = with_quality(strong(), image(*size))
    assert out.shape == (1, 3, *size)
    assert out.isfinite().all()
    assert 0 <= quality.item() <= 1


def test_shape_on_the_meta_device():
    with torch.device("meta"):
        network, x = FBCNN(), torch.empty(2, 3, 37, 50)
        out, quality = network(x, 0.5, return_quality=True)
    assert (out.shape, quality.shape) == ((2, 3, 37, 50), (2, 1))


@pytest.mark.parametrize("act_mode", ["R", "BR"])
def test_every_parameter_gets_a_gradient(act_mode):
    """The image trains the prediction of the quality too."""
    assert without_gradient(strong(act_mode=act_mode), image(32, 40)) == set()


@pytest.mark.parametrize("arguments", [{}, {"act_mode": "BR"}, {"in_nc": 1}])
@pytest.mark.parametrize("size", [(1, 1), (16, 24), (33, 17)])
def test_identity_start_returns_the_input_and_learns(size, arguments):
    network = small(identity_start=True, **arguments).eval()
    x = image(*size)[:, : network.facts.in_channels]
    out, quality = with_quality(network, x)
    torch.testing.assert_close(out, x, rtol=0, atol=1e-6)
    assert 0 < quality.item() < 1
    torch.nn.functional.l1_loss(network(x), 1 - x).backward()
    with torch.no_grad():  # the first step moves the tail, which then hands on the gradients
        network.m_tail.weight -= 0.1 * network.m_tail.weight.grad
    of_quality = {name for name, _ in network.named_parameters() if name.startswith("qf_")}
    assert without_gradient(network, x) == of_quality
    with torch.no_grad():  # the second one moves the layers that read the quality
        for name, parameter in network.named_parameters():
            if name.startswith("to_"):
                parameter -= 0.1 * parameter.grad
    assert without_gradient(network, x) == set()


def test_an_identity_start_can_learn_from_the_quality():
    """Units of the embedding switch at different qualities, and nothing reads them yet."""
    network = small(identity_start=True, quality_nc=64)
    qualities = torch.linspace(0, 1, 21)[:, None]
    with torch.inference_mode():
        embedded = network.qf_embed(qualities)
        first = network.qf_embed[1](network.qf_embed[0](qualities))
    assert (embedded.std(0) > 0.01).float().mean() > 0.5
    switched = [tuple(unit) for unit in (first > 0).T.tolist()]
    assert len(set(switched)) > 10
    for level in (1, 2, 3):
        for what in ("gamma", "beta"):
            assert not network.get_parameter(f"to_{what}_{level}.0.weight").any()


def test_unknown_qualities_are_predicted_where_the_prediction_is_returned():
    network, x = strong(), image(16, 24, batch=2)
    blind, predicted = with_quality(network, x)
    mixed, again = with_quality(network, x, torch.tensor([[torch.nan], [0.9]]))
    torch.testing.assert_close(again, predicted)
    torch.testing.assert_close(mixed[0], blind[0])
    torch.testing.assert_close(mixed[1:], with_quality(network, x[1:], 0.9)[0])


def test_weights_of_an_identity_start_load_without_it():
    network = small(identity_start=True)
    assert "identity_start" not in FBCNN.arguments_from(network.state_dict())
    small().load_state_dict(network.state_dict())
    with pytest.raises(UserError, match="identity_start: needs as many channels"):
        small(identity_start=True, nc=(3, 8, 12, 16))


def test_prediction_gets_no_gradient_where_the_quality_is_given():
    network = strong()
    network(image(16, 16), 0.5).sum().backward()
    dead = {name for name, parameter in network.named_parameters() if parameter.grad is None}
    assert dead == {name for name, _ in network.named_parameters() if name.startswith("qf_pred")}


@pytest.mark.parametrize("act_mode", ["R", "BR"])
def test_recomputing_blocks_changes_no_gradient(act_mode):
    network = strong(act_mode=act_mode)
    recomputing = small(act_mode=act_mode, use_checkpoint=True).eval()
    assert_same_gradients(network, recomputing, image(16, 24))


def test_gradient_of_the_encoder_runs_through_the_prediction_too():
    network, x = strong().double(), image(16, 16).double()
    weight = network.m_body_encoder[1].res[2].bias

    def loss():
        return network(x).square().mean()

    (gradient,) = torch.autograd.grad(loss(), weight)
    direction, step = torch.randn_like(weight), 1e-6
    with torch.no_grad():
        before = loss()
        weight += step * direction
        slope = (loss() - before) / step
    torch.testing.assert_close(slope, gradient @ direction, rtol=1e-4, atol=0)
