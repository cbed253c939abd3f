import pytest
import torch
import torch.nn.functional as F
from naive_promptir import transform
from naive_steps import conv, u_net
from network_tools import padded, restore, without_gradient
from small_networks import SMALL
from vector_tools import filled, image, parameter_count

from cir_arch.restormer_arch import Restormer
from cir_arch.restormer_qf_arch import RestormerQF
from cir_host.errors import UserError
from cir_host.loading import load_into

LEVELS = [(3, 2, 1), (3, 1), (2,)]


def small(**arguments):
    torch.manual_seed(0)
    return RestormerQF(**{**SMALL["RestormerQF"], "qf_levels": (3, 2, 1), **arguments})


def strong(**arguments):
    """A small network whose quality matters."""
    return filled(small(**arguments))


def with_quality(network, x, quality=None):
    with torch.inference_mode():
        return network(x, quality, return_quality=True)


def test_counts_of_the_default_network():
    with torch.device("meta"):
        network, base = RestormerQF(), Restormer()
    assert parameter_count(network) == 28_078_645
    assert parameter_count(network.qf_pred) == 823_553
    assert parameter_count(network) - parameter_count(network.qf_pred) == 27_255_092
    own = {name for name in network.state_dict() if not name.startswith(("qf_", "to_"))}
    assert own == base.state_dict().keys()


def test_a_checkpoint_of_restormer_loads_and_keeps_its_image():
    base, network = filled(Restormer(**SMALL["Restormer"])), small(identity_start=True)
    load_into(network, base.state_dict(), False, "net.pth")
    x = image(19, 30)
    for quality in (None, 0.1, 0.9):
        out, _ = with_quality(network.eval(), x, quality)
        torch.testing.assert_close(out, restore(base, x), rtol=0, atol=1e-6)


def test_identity_start_learns():
    """The first step moves the last layers, which then hand on the gradients."""
    network, x = small(identity_start=True), image(16, 24)
    last = ("res.2.weight", "to_beta")
    for name in without_gradient(network, x):
        assert name.startswith(("qf_", "to_gamma")), name
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.startswith(("qf_block", "to_beta")) and any(part in name for part in last):
                parameter -= 0.1 * parameter.grad
    assert without_gradient(network, x) == set()


@pytest.mark.parametrize("levels", LEVELS)
def test_network_by_its_formulas(levels):
    """Where the blocks stand, and what gamma and beta do there; in float64."""
    network, x = strong(qf_levels=levels).double(), image(16, 24, batch=2).double()
    with torch.no_grad():
        out, quality = network(x, return_quality=True)
        expected = by_formulas(network, x, quality)
        torch.testing.assert_close(quality, predicted(network.qf_pred, x), rtol=0, atol=1e-12)
    assert quality.shape == (2, 1)
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-10)


def predicted(predictor, x):
    def residual(block, y):
        return y + conv(block.res[2], F.relu(conv(block.res[0], y)))

    y = conv(predictor.head, x)
    for down in (predictor.down1, predictor.down2, predictor.down3):
        y = F.conv2d(residual(down[0], y), down[1].weight, down[1].bias, stride=2)
    means = residual(predictor.quality[0], y).mean((2, 3))
    first, second, third = (m for m in predictor.quality if isinstance(m, torch.nn.Linear))
    return third(F.relu(second(F.relu(first(means))))).sigmoid()


def by_formulas(network, x, quality):
    """After level 3 and 2 of the decoder comes an upsampling, after level 1 the refinement."""
    embedded = quality
    for index in (0, 2, 4):
        embedded = F.relu(network.qf_embed[index](embedded))
    found = dict(network.named_children())

    def modulate(y, level):
        if f"qf_block_{level}" not in found:
            return y
        res = found[f"qf_block_{level}"].res
        gamma = found[f"to_gamma_{level}"][0](embedded).sigmoid()[:, :, None, None]
        beta = found[f"to_beta_{level}"][0](embedded).tanh()[:, :, None, None]
        return y + gamma * conv(res[2], F.relu(conv(res[0], y))) + beta

    def run(block, y):
        if block is network.refinement[0]:
            y = modulate(y, 1)
        return transform(block, y)

    y = conv(network.patch_embed.proj, x)
    y = u_net(network, y, run, lambda y, level: modulate(y, level + 1))
    return x + conv(network.output, y)


def test_quality_replaces_the_prediction():
    network, x = strong(), image(16, 24, batch=2)
    blind, first = with_quality(network, x)
    torch.testing.assert_close(restore(network, x), blind, rtol=0, atol=0)
    given, still_predicted = with_quality(network, x, 0.9)
    torch.testing.assert_close(still_predicted, first, rtol=0, atol=0)
    assert (given - blind).abs().max() > 1e-3
    torch.testing.assert_close(with_quality(network, x, first)[0], blind)


def test_a_given_quality_costs_no_prediction():
    network = strong()
    network.qf_pred.forward = None
    with torch.inference_mode():
        assert network(image(5, 8), 0.5).shape == (1, 3, 5, 8)


def test_quality_is_predicted_from_the_padded_image():
    network, x = strong(), image(26, 31)
    expected = with_quality(network, padded(x, 6, 1, "reflect"))[1]
    torch.testing.assert_close(with_quality(network, x)[1], expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("quality", [30, -0.1, torch.rand(2), torch.rand(3, 1)])
def test_quality_on_another_scale_or_of_another_shape_is_refused(quality):
    with pytest.raises(UserError, match="quality"):
        small()(image(8, 8, batch=2), quality)


def test_a_frozen_predictor_gets_no_gradient_and_all_else_does():
    network, x = strong(freeze_predictor=True), image(16, 24)
    frozen = {name for name, p in network.named_parameters() if name.startswith("qf_pred.")}
    assert without_gradient(network, x) == frozen
    assert without_gradient(strong(), x) == set()
    out, quality = network(x, return_quality=True)
    assert out.requires_grad
    assert not quality.requires_grad


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"predictor_nc": (4, 8)}, "predictor_nc"),
        ({"qf_levels": ()}, "qf_levels"),
        ({"qf_levels": (4, 1)}, "qf_levels"),
        ({"qf_levels": (1, 1)}, "qf_levels"),
        ({"LayerNorm_type": "RMS"}, "LayerNorm_type"),
        ({"dim": 9}, "dim"),
    ],
)
def test_contradictory_arguments_are_named(arguments, named):
    with pytest.raises(UserError, match=named):
        small(**arguments)
