import pytest
import torch
from network_tools import (
    assert_same_gradients,
    padded,
    restore,
    without_gradient,
)
from torch import nn
from vector_tools import filled, image, parameter_count, shapes

from cir_arch.cave_arch import CaVE, CaVEEncoder, CaVEQuality, ShiftedResBlock
from cir_arch.layers.dct import LUMA, LUMA_STEPS, WIDTHS, dct_matrix
from cir_arch.recognition import NetworkOptions, recognise
from cir_host.errors import UserError

SMALL = {"nc": (8, 8, 12, 16), "nb": 1}


def small(**arguments):
    torch.manual_seed(0)
    return filled(CaVE(**{**SMALL, "quality_nc": 16, **arguments}))


def outputs(network, x):
    """Image, quality and embedding."""
    with torch.inference_mode():
        return *network(x, return_quality=True), network.embed(x)


def test_images_of_a_batch_do_not_mix():
    """In float64: two qualities that happen to be close make any error look large in float32."""
    network, pair = small().double(), image(32, 64, batch=2).double()
    apart = [outputs(network, x[None]) for x in pair]
    for found, parts in zip(outputs(network, pair), zip(*apart, strict=True), strict=True):
        torch.testing.assert_close(found, torch.cat(parts), rtol=0, atol=1e-10)


@pytest.mark.parametrize("training", [False, True])
def test_blocks_on_the_way_up_add_one(training):
    block = ShiftedResBlock(3, "BR", False).train(training)
    x = torch.randn(2, 3, 5, 6)
    torch.testing.assert_close(block(x), x + block.res(x) + 1)
    network = small(nb=2)
    shifted = [name for name, m in network.named_modules() if isinstance(m, ShiftedResBlock)]
    assert shifted == [f"m_up{level}.{i}" for level in (3, 2, 1) for i in (1, 2)]


def test_quality_does_not_enter_the_image():
    network, x = small(), image(32, 32)
    before = restore(network, x)
    nn.init.normal_(network.qf_pred[-2].weight)
    torch.testing.assert_close(restore(network, x), before, rtol=0, atol=0)
    torch.testing.assert_close(outputs(network, x)[0], before, rtol=0, atol=0)


def test_predicted_quality_factor():
    network, x = small(), image(40, 33, batch=2)
    quality = outputs(network, x)[1]
    with torch.inference_mode():
        found = network.predict_quality(x)
    assert found.shape == (2, 1)
    torch.testing.assert_close(found, 100 - 100 * quality)


@pytest.mark.parametrize("size", [(40, 40), (72, 64), (20, 33)])
def test_all_outputs_pad_to_32_by_replication(size):
    """Sizes at which the authors' code ends with an error or leaves out the border."""
    network, x = small(), image(*size)
    height, width = size
    expected = outputs(network, padded(x, -height % 32, -width % 32, "edge"))
    expected = (expected[0][..., :height, :width], *expected[1:])
    for found, wanted in zip(outputs(network, x), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)
    assert network.facts.size_multiple == 32


@pytest.mark.parametrize("size", [(1, 1), (1, 33), (31, 4), (65, 64)])
def test_any_size_comes_back(size):
    restored, quality, embedding = outputs(small(), image(*size))
    assert restored.shape == (1, 3, *size)
    assert restored.isfinite().all()
    assert 0 <= quality.item() <= 1
    assert embedding.shape == (1, -(-size[0] // 32) * -(-size[1] // 32), 16)
    assert embedding.isfinite().all()


def test_tokens_run_row_by_row():
    network, x = small(), image(64, 96)
    encoded = network.encode(x)[-1]
    found = network.embed(x)
    assert found.shape == (1, 6, 16)
    torch.testing.assert_close(found[0, 4], encoded[0, :, 1, 1], rtol=0, atol=0)


def test_encoder_alone_loads_the_whole_networks_checkpoint():
    network, x = small(), image(40, 70)
    encoder = CaVEEncoder(**SMALL).eval()
    encoder.load_state_dict(network.state_dict())
    torch.testing.assert_close(restore(encoder, x), outputs(network, x)[2], rtol=0, atol=0)
    again = CaVEEncoder(**SMALL)
    again.load_state_dict(encoder.state_dict())
    wrapped = nn.Sequential(again)
    wrapped.load_state_dict({f"0.{key}": value for key, value in network.state_dict().items()})


def test_encoder_alone_refuses_what_is_no_checkpoint_of_the_network():
    weights = small().state_dict()
    with pytest.raises(RuntimeError, match=r"[Uu]nexpected.*m_down4"):
        CaVEEncoder(**SMALL).load_state_dict({**weights, "m_down4.weight": torch.zeros(1)})
    del weights["m_head.bias"]
    with pytest.raises(RuntimeError, match=r"[Mm]issing.*m_head.bias"):
        CaVEEncoder(**SMALL).load_state_dict(weights)


def test_encoder_and_head_load_the_whole_networks_checkpoint():
    network, x = small(), image(40, 70, batch=2)
    part = CaVEQuality(**SMALL, quality_nc=16).eval()
    part.load_state_dict(network.state_dict())
    _, quality, embedding = outputs(network, x)
    found = outputs(part, x)
    assert found[0] is x
    torch.testing.assert_close(found[1:], (quality, embedding), rtol=0, atol=0)
    torch.testing.assert_close(part.predict_quality(x), network.predict_quality(x))
    part(x, return_quality=True)[1].sum().backward()
    assert all(parameter.grad.any() for parameter in part.parameters())


def test_encoder_and_head_are_told_from_the_whole_network():
    arguments = {"nc": [8, 8, 12, 16], "nb": 1, "quality_nc": 16}
    part = CaVEQuality(**arguments)
    assert recognise(part.state_dict()) == NetworkOptions("CaVEQuality", arguments)
    assert recognise(small().state_dict()).type == "CaVE"


def test_start_counts_coefficients_near_zero():
    """By the formulas, for one block."""
    sizes = {"nc": [1, 192, 128, 128], "nb": 1, "act_mode": "R", "strides": [8, 1, 1]}
    network = CaVEQuality(**sizes, quality_nc=8, start="dct").eval()
    x = image(16, 24)
    with torch.inference_mode():
        found = network.encode(x)[-1][0, :, 1, 2]
    luma = (x[0, :, 8:, 16:] * torch.tensor(LUMA)[:, None, None]).sum(0) - 0.5
    c = 255 * dct_matrix() @ luma @ dct_matrix().T / torch.tensor(LUMA_STEPS)
    row = torch.arange(8)
    near = (1 - c.abs() / torch.tensor(WIDTHS)[(row[:, None] + row) % 3]).clamp(min=0)
    torch.testing.assert_close(found[:64], (4 * near - 2).flatten(), rtol=0, atol=1e-3)
    torch.testing.assert_close(found[65:], (c.abs() - 0.5).flatten()[1:], rtol=0, atol=1e-3)
    with pytest.raises(UserError, match=r"start: dct needs strides \[8, 1, 1\]"):
        CaVEQuality(**SMALL, start="dct")


def test_size_of_the_encoder_alone():
    with torch.device("meta"):
        encoder, network = CaVEEncoder(), CaVE()
    whole = shapes(network)
    assert parameter_count(encoder) == 27_739_776
    assert shapes(encoder).items() <= whole.items()
    # Parameters and running statistics together are the published 27,747,472.
    assert sum(value.numel() for value in encoder.state_dict().values()) == 27_747_472


def test_shape_on_the_meta_device():
    with torch.device("meta"):
        out, quality = CaVE()(torch.empty(2, 3, 37, 70), return_quality=True)
    assert (out.shape, quality.shape) == ((2, 3, 37, 70), (2, 1))


def test_every_parameter_gets_a_gradient():
    """Those of the quality head only where the quality is asked for."""
    network, x = small(), image(64, 64)
    head = {name for name, _ in network.named_parameters() if name.startswith("qf_pred")}
    assert without_gradient(network, x) == head
    restored, quality = network(x, return_quality=True)
    (restored.mean() + quality.mean()).backward()
    assert all(parameter.grad.any() for parameter in network.parameters())


def test_recomputing_blocks_changes_neither_gradients_nor_statistics():
    plain, recomputing = small().train(), small(use_checkpoint=True).train()
    assert_same_gradients(plain, recomputing, image(64, 64, batch=2))
    for name, value in plain.state_dict().items():
        assert torch.equal(value, recomputing.state_dict()[name]), name


def test_tile_is_the_whole_beyond_the_halo():
    """And the halo is needed: nearer to the cut the two differ."""
    network = small()
    halo, start = network.facts.halo, 64
    x = image(32, start + halo + 40)
    whole = restore(network, x)[..., start:]
    tile = restore(network, x[..., start:])
    scale = whole.std()
    torch.testing.assert_close(tile[..., halo:] / scale, whole[..., halo:] / scale)
    assert ((tile - whole)[..., halo // 3 :] / scale).abs().max() > 1e-3


def test_compiles():
    """The image, and the running statistics after a training step that recomputes blocks."""
    plain, x = small(), image(40, 64)
    network = small(use_checkpoint=True)
    compiled = torch.compile(network, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(restore(compiled, x), restore(plain, x), rtol=1e-4, atol=1e-4)
    for trained, called in ((plain, plain), (network, compiled)):
        trained.train()
        called(x).mean().backward()
    torch.testing.assert_close(network.state_dict(), plain.state_dict(), rtol=1e-4, atol=1e-4)
