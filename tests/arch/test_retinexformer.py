import pytest
import torch
from network_tools import restore
from vector_tools import fill, filled, image, shapes

from cir_arch.layers import bands
from cir_arch.retinexformer_arch import IGMSA, NormFirst, Retinexformer
from cir_host.errors import UserError


def small(**arguments):
    torch.manual_seed(0)
    return Retinexformer(**{"n_feat": 8, "num_blocks": (1, 1, 1), **arguments})


def maps(count, *shape):
    """Random maps in float64."""
    return torch.randn(count, *shape, dtype=torch.float64).unbind(0)


@pytest.mark.parametrize("values", [1, 7 * 8 * 5])
def test_bands_of_rows_give_the_map_of_the_whole(monkeypatch, values):
    """One row at a time, and five with a rest of four; input and illumination stay as they are."""
    attention, feed_forward = IGMSA(8, 2).double(), NormFirst(8).double()
    for block in (attention, feed_forward):
        block.load_state_dict(fill(block.state_dict()))
    x, light = maps(2, 2, 9, 7, 8)
    given = x.clone(), light.clone()
    whole = attention(x, light), feed_forward(x)
    monkeypatch.setattr(bands, "VALUES", 2 * values)
    with torch.no_grad():
        found = attention(x, light), feed_forward(x)
    for got, expected in zip(found, whole, strict=True):
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)
    assert torch.equal(x, given[0])
    assert torch.equal(light, given[1])


def test_large_features_in_half_precision(monkeypatch):
    """No norm precedes the attention, so nothing bounds its input."""
    attention = IGMSA(8, 2)
    attention.load_state_dict(fill(attention.state_dict()))
    x, light = (y.float() for y in maps(2, 1, 40, 16, 8))
    x = 100 * x
    whole = attention(x, light)
    for values in (2**18, 20 * 16 * 8):
        monkeypatch.setattr(bands, "VALUES", values)
        with torch.no_grad(), torch.autocast("cpu", torch.float16):
            found = attention(x, light)
        assert (found - whole).abs().max() < 0.02 * whole.std()


def test_attention_by_its_formula():
    """Channel by channel: softmax over those of the query; values lit up, but for the position."""
    attention = IGMSA(4, 2).double()
    attention.load_state_dict(fill(attention.state_dict()))
    x, light = maps(2, 3, 5, 4)
    q, k, v = (y(x).flatten(0, 1) for y in (attention.to_q, attention.to_k, attention.to_v))
    q, k = q / q.square().sum(0).sqrt(), k / k.square().sum(0).sqrt()
    lit = v * light.flatten(0, 1)
    mixed = torch.zeros_like(lit)
    for head, scale in enumerate(attention.rescale.flatten()):
        own = range(2 * head, 2 * head + 2)
        for key in own:
            shares = torch.stack([scale * (k[:, key] * q[:, query]).sum() for query in own])
            for share, query in zip(shares.softmax(0), own, strict=True):
                mixed[:, key] += share * lit[:, query]
    expected = attention.proj(mixed).view(1, 3, 5, 4) + attention.pos_emb(v.view(1, 3, 5, 4))
    torch.testing.assert_close(attention(x[None], light[None]), expected, rtol=0, atol=1e-12)


def test_a_black_image_is_restored():
    """All queries and keys are zero, and so are their norms."""
    out = restore(filled(small()), torch.zeros(1, 3, 8, 8))
    assert out.isfinite().all()


def test_stages_follow_each_other():
    """The image is restored by the first, then the result by the second."""
    whole = filled(small(stage=2)).double()
    x = image(8, 12).double()
    expected = x
    for index in ("0", "1"):
        one = small().double().eval()
        prefix = f"body.{index}."
        one.body[0].load_state_dict(
            {k.removeprefix(prefix): v for k, v in whole.state_dict().items() if prefix in k}
        )
        expected = restore(one, expected)
    torch.testing.assert_close(restore(whole, x), expected, rtol=0, atol=1e-10)


def test_initial_values():
    state = Retinexformer(n_feat=40).state_dict()
    attention = "body.0.denoiser.bottleneck.blocks.0.0."
    for layer in ("to_q", "to_k", "to_v", "proj"):
        assert state[f"{attention}{layer}.weight"].std().item() == pytest.approx(0.02, rel=0.05)
    assert not state[f"{attention}proj.bias"].any()
    assert (state[f"{attention}rescale"] == 1).all()


def test_the_number_of_channels_can_be_said_twice():
    """As the authors' options do."""
    assert shapes(small(out_channels=3)) == shapes(small())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"out_channels": 1}, r"out_channels: 1 differs from in_channels \(3\)"),
        ({"n_feat": 31}, "n_feat: 31 channels cannot be cut into 4 groups"),
        ({"n_feat": 0}, "n_feat: 0 "),
        ({"stage": 0}, "stage: 0 "),
        ({"num_blocks": (1, 2)}, r"num_blocks: \[1, 2\] has 2 numbers; give three"),
    ],
)
def test_impossible_arguments_are_named(arguments, message):
    with pytest.raises(UserError, match=message):
        small(**arguments)
