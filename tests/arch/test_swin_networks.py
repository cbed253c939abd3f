"""The networks on SwinNetwork: what the published numbers and tests of all networks do not show."""

import pytest
import torch
from network_tools import reach, restore
from swin_tools import SMALL, arguments_of, small
from vector_tools import image

from cir_arch.layers import bands
from cir_arch.srformer_arch import SRFormer
from cir_arch.swin2sr_arch import Swin2SR
from cir_host.errors import UserError

PLAIN_TAILS = [
    {"img_range": 255.0},
    {"upsampler": "pixelshuffle", "upscale": 3, "img_range": 2.0},
    {"upsampler": "pixelshuffledirect", "upscale": 3},
    {"upsampler": "nearest+conv", "upscale": 4},
]
AUX = {"upsampler": "pixelshuffle_aux", "upscale": 4}
TAILS = {SRFormer: PLAIN_TAILS, Swin2SR: [*PLAIN_TAILS, AUX]}
WINDOWS = {SRFormer: (2, 4, 6), Swin2SR: (2, 5)}
"""In windows of 6, SRFormer's cells straddle the seam of a shifted map."""

each = pytest.mark.parametrize("network", SMALL)


@pytest.mark.parametrize(
    ("network", "arguments"),
    [
        (network, {"window_size": window, **tail})
        for network in SMALL
        for window in WINDOWS[network]
        for tail in [*TAILS[network], {"in_chans": 1}]
    ],
    ids=str,
)
@pytest.mark.parametrize("cells", [(1, 1), (2, 3)])
def test_equals_the_naive_form(network, arguments, cells):
    """Also where a map is one window.

    In float64: another epsilon of a norm or the tanh form of GELU is another function.
    """
    ours = small(network, **arguments).double()
    naive = small(network, naive=True, **arguments).double()
    x = image(cells[0] * ours.window_size, cells[1] * ours.window_size, seed=1, batch=2).double()
    x = x[:, : ours.in_chans]
    torch.testing.assert_close(restore(ours, x), restore(naive, x), rtol=0, atol=1e-10)


@each
@pytest.mark.parametrize("tail", PLAIN_TAILS, ids=str)
def test_halo_is_exact_behind_every_tail(network, tail):
    one = small(network, **tail, depths=(2,), num_heads=(2,), window_size=2).double()
    assert reach(one, one.facts) == one.facts.halo


@pytest.mark.parametrize(
    ("network", "tail"), [(network, tail) for network in SMALL for tail in TAILS[network]], ids=str
)
@pytest.mark.parametrize("size", [(1, 1), (2, 9), (8, 4)])
def test_any_size_comes_back_enlarged(network, tail, size):
    one = small(network, **tail)
    out = restore(one, image(*size))
    assert out.shape == (1, 3, size[0] * one.upscale, size[1] * one.upscale)
    assert out.isfinite().all()


@each
@pytest.mark.parametrize("width", [8, 100])
def test_bands_of_rows_change_nothing(monkeypatch, network, width):
    one, x = small(network).double(), image(28, width, batch=2).double()
    expected = restore(one, x)
    monkeypatch.setattr(bands, "VALUES", 1)
    torch.testing.assert_close(restore(one, x), expected, rtol=0, atol=1e-10)


@each
def test_the_size_of_the_training_patches_has_no_effect(network):
    """The releases shift no windows if patches are of one window."""
    x = image(4, 4)
    expected = restore(small(network), x)
    torch.testing.assert_close(restore(small(network, img_size=4), x), expected, rtol=0, atol=0)


@each
def test_drop_path_rates_rise_through_the_groups(network):
    one = small(network, depths=(2, 3))
    assert [
        block.drop_path.rate for group in one.layers for block in group.residual_group.blocks
    ] == pytest.approx([0, 0.025, 0.05, 0.075, 0.1])


BOTH_REFUSE = [
    ({"num_heads": (2, 5)}, "num_heads"),
    ({"depths": (2, 2, 2)}, "depths"),
    ({"depths": (0, 1)}, "depths"),
    ({"mlp_ratio": 0.0}, "mlp_ratio"),
    ({"in_chans": 0}, "in_chans"),
    ({"img_range": 0.0}, "img_range"),
    ({"drop_path_rate": 1.0}, "drop_path_rate"),
    ({"upscale": 2}, "upscale: without upsampler"),
    ({"upsampler": "pixelshuffle", "upscale": 5}, "upscale: 5"),
    ({"upsampler": "pixelshuffledirect", "upscale": 0}, "upscale: cannot enlarge by 0"),
    ({"upsampler": "nearest+conv", "upscale": 2}, "upscale: .* give 4"),
    ({"resi_connection": "3conv"}, "resi_connection"),
]


@pytest.mark.parametrize(
    ("network", "arguments", "named"),
    [
        *((network, *refused) for network in SMALL for refused in BOTH_REFUSE),
        (SRFormer, {"window_size": 0}, "window_size"),
        (SRFormer, {"window_size": 7}, "window_size: 7 .* even"),
        (SRFormer, {"embed_dim": 18}, "embed_dim: 18 .* multiple of 4"),
        (SRFormer, AUX, "upsampler: 'pixelshuffle_aux'"),
        (Swin2SR, {"window_size": 1}, "window_size"),
        (Swin2SR, {"embed_dim": 13}, "num_heads"),
        (
            Swin2SR,
            {"upsampler": "pixelshuffle_hf"},
            "upsampler: 'pixelshuffle_hf' is unknown; give ''",
        ),
    ],
    ids=str,
)
def test_contradictory_arguments_are_named(network, arguments, named):
    with pytest.raises(UserError, match=f"^{named}"):
        network(**arguments_of(network, **arguments))
