"""GRL-CIC: what the report says of it, and the choices of our reading."""

import pytest
import torch
import torch.nn.functional as F
from network_tools import restore
from vector_tools import filled, image, parameter_count, shapes

from cir_arch.grl_arch import GRL
from cir_arch.grl_cic_arch import GRL_CIC
from cir_host.errors import UserError
from cir_host.loading import load_into

SMALL = dict(GRL_CIC.entry.small)
OWN = ("quality_after", "quality_nc", "quality_blocks", "embed_nc", "gate_reduction")
BASE = {key: value for key, value in SMALL.items() if key not in (*OWN, "identity_start")}


def small(**arguments):
    torch.manual_seed(0)
    return filled(GRL_CIC(**{**SMALL, **arguments}))


def quality_of(network, x):
    with torch.inference_mode():
        return network(x, return_quality=True)[1]


def test_size_with_the_defaults():
    with torch.device("meta"):
        network, base = (
            GRL_CIC(),
            GRL(
                embed_dim=180,
                num_heads_window=(3,) * 4,
                num_heads_stripe=(3,) * 4,
                local_connection=True,
            ),
        )
    assert parameter_count(network) == 9_139_255
    added = shapes(network).keys() - shapes(base).keys()
    assert all(name.startswith("cic.") for name in added)
    assert parameter_count(network.cic) == 685_572
    assert parameter_count(network) - parameter_count(base) == 685_572


def test_with_weights_of_grl_it_starts_as_grl():
    """A checkpoint of the base fits, and the additions change nothing until they learn."""
    base = filled(GRL(**BASE))
    network = GRL_CIC(**{**SMALL, "identity_start": True}).eval()
    report = load_into(network, base.state_dict(), False, "grl.pth")
    assert all(name.startswith("cic.") for name in report.missing)
    x = image(9, 21, batch=2)
    for quality in (None, 0.1, 0.9):
        with torch.inference_mode():
            found = network(x, quality)
        torch.testing.assert_close(found, restore(base, x), rtol=0, atol=1e-6)


def test_the_additions_learn_from_the_start():
    """The last layers of the gates at once, the others after one step."""
    torch.manual_seed(0)
    network = GRL_CIC(**{**SMALL, "identity_start": True})
    optimizer = torch.optim.SGD(network.parameters(), lr=1.0)
    x = image(16, 16, batch=2)
    for names in (("gates.1.2.", "gates.2.2."), ("gates.", "embed.", "predict.")):
        optimizer.zero_grad()
        (network(x) - image(16, 16, seed=2, batch=2)).square().mean().backward()
        for name, parameter in network.cic.named_parameters():
            if name.startswith(names):
                assert parameter.grad.any(), name
        optimizer.step()


def test_quality_enters_the_image():
    network, x = small(), image(16, 16)
    with torch.inference_mode():
        weak, strong = network(x, 0.3), network(x, 0.9)
        predicted = quality_of(network, x)
        by_prediction = network(x, predicted)
    assert (weak - strong).abs().max() > 1e-3
    torch.testing.assert_close(by_prediction, restore(network, x), rtol=0, atol=1e-6)


def test_quality_is_predicted_for_each_image_even_if_another_is_given():
    network, x = small(), image(16, 16, batch=2)
    expected = torch.cat([quality_of(network, one[None]) for one in x])
    assert expected.shape == (2, 1)
    assert not torch.equal(expected[0], expected[1])
    with torch.inference_mode():
        out, predicted = network(x, 0.5, return_quality=True)
        column = network(x, torch.tensor([[0.5], [0.2]]))
        other = network(x[1:], 0.2)
    torch.testing.assert_close(predicted, expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(column[0], out[0], rtol=0, atol=1e-5)
    torch.testing.assert_close(column[1], other[0], rtol=0, atol=1e-5)


@pytest.mark.parametrize("after", [1, 2])
def test_gates_are_those_of_our_reading(after):
    """By the formulas: the prediction after some stages, a gate after each later one."""
    network, x = small(quality_after=after).double(), image(16, 24).double()
    state = network.state_dict()

    def linear(name, y):
        return F.linear(y, state[f"cic.{name}.weight"], state[f"cic.{name}.bias"])

    with torch.inference_mode():
        centred = network.image_range.enter(x)
        shallow = network.conv_first(centred.permute(0, 2, 3, 1))
        y = network.norm_start(shallow)
        for index, stage in enumerate(network.layers):
            y = stage(y)
            if index == after - 1:
                quality = network.cic.predict(y.permute(0, 3, 1, 2))
                embedding = F.relu(linear("embed.2", F.relu(linear("embed.0", quality))))
            if index >= after:
                given = torch.cat((y.mean((1, 2)), embedding), 1)
                gate = linear(f"gates.{index}.2", F.relu(linear(f"gates.{index}.0", given)))
                y = y * 2 * gate.sigmoid()[:, None, None]
        y = network.conv_last(network.conv_after_body(network.norm_end(y)) + shallow)
        expected = network.image_range.leave(centred + y.permute(0, 3, 1, 2))
        found, predicted = network(x, return_quality=True)
    torch.testing.assert_close(predicted, quality, rtol=0, atol=1e-10)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"quality_after": 0}, "quality_after"),
        ({"quality_after": 3}, "quality_after"),
        ({"quality_nc": 0}, "quality_nc"),
        ({"quality_blocks": 0}, "quality_blocks"),
        ({"embed_nc": 0}, "embed_nc"),
        ({"gate_reduction": 0}, "gate_reduction"),
        ({"gate_reduction": 25}, "gate_reduction"),
        ({"window_size": 3}, "window_size"),
    ],
)
def test_contradictory_arguments_are_named(arguments, named):
    with pytest.raises(UserError, match=f"^{named}"):
        GRL_CIC(**{**SMALL, **arguments})


@pytest.mark.parametrize("quality", [1.5, torch.zeros(3, 1)])
def test_a_quality_that_does_not_fit_is_named(quality):
    with pytest.raises(UserError, match=r"^quality"):
        small()(image(8, 8), quality)
