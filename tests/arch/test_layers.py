"""Building blocks alone, in float64: what a whole network in float32 would not show."""

import math

import naive_promptcir as naive
import pytest
import torch
from naive_steps import shift_mask
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from vector_tools import fill

from cir_arch.layers import attention as attention_module
from cir_arch.layers import bands
from cir_arch.layers.attention import attend
from cir_arch.layers.channel_attention import CAB
from cir_arch.layers.drop_path import DropPath
from cir_arch.layers.dynamic_prompt import DynamicPrompt
from cir_arch.layers.feed_forward import GDFN, MLP
from cir_arch.layers.hybrid_attention import RHAG, HybridSizes
from cir_arch.layers.norm import BiasFreeLayerNorm, LayerNorm
from cir_arch.layers.padding import PaddingRule
from cir_arch.layers.transposed_attention import MDTA
from cir_arch.layers.upsampling import sub_pixel_convolutions
from cir_arch.layers.window_attention import (
    MASKED,
    PositionIndices,
    WindowAttention,
    merge,
    overlap_index,
    partition,
    partition_overlapping,
    self_attention_index,
    shift_masks,
)

BLOCKS = {
    "norm": (lambda: LayerNorm(6), lambda: naive.ChannelNorm(6)),
    "norm without bias": (lambda: BiasFreeLayerNorm(6), lambda: PlainBiasFreeNorm(6)),
    "CAB": (lambda: CAB(6, 4, 3), lambda: naive.CAB(6, 4, 3)),
    "GDFN": (lambda: GDFN(6, 2.66, bias=True), lambda: naive.GDFN(6, 2.66, bias=True)),
    "MDTA": (lambda: MDTA(6, 2), lambda: naive.MDTA(6, 2)),
    "prompt": (lambda: DynamicPrompt(6, 3, 4, 5), lambda: naive.DynamicPrompt(6, 3, 4, 5)),
}


class PlainBiasFreeNorm(torch.nn.Module):
    """On (B, C, H, W): the deviation about the mean divides, the mean stays."""

    def __init__(self, channels):
        super().__init__()
        self.body = torch.nn.ParameterDict({"weight": torch.ones(channels)})

    def forward(self, x):
        centred = x - x.sum(1, keepdim=True) / x.shape[1]
        variance = (centred**2).sum(1, keepdim=True) / x.shape[1]
        return x / torch.sqrt(variance + 1e-5) * self.body["weight"].view(1, -1, 1, 1)


def maps(*shape, seed=0, scale=1.0):
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(*shape, generator=generator, dtype=torch.float64)


def positions_of(window):
    """Tables of windows whose extended windows are half larger."""
    extended = window + window // 2
    index = overlap_index(window, extended).remainder((window + extended - 1) ** 2)
    masks = shift_masks(window, window // 2, torch.device("cpu"))
    return PositionIndices(self_attention_index(window), index, masks)


@pytest.mark.parametrize("name", BLOCKS)
@pytest.mark.parametrize("scale", [1.0, 1e-3])
def test_block_is_its_formula_and_so_is_its_gradient(name, scale):
    """A dim input shows a wrong eps, float64 a GELU that is not exact."""
    ours, theirs = (make().double() for make in BLOCKS[name])
    weights = fill(ours.state_dict())
    ours.load_state_dict(weights)
    theirs.load_state_dict(weights)
    x = maps(2, 6, 9, 7, scale=scale)
    expected = theirs(x)
    out = ours(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    tolerance = {"rtol": 0, "atol": 1e-9}
    torch.testing.assert_close(out, expected, **tolerance)
    weight = maps(*expected.shape, seed=1)
    (out * weight).sum().backward()
    (expected * weight).sum().backward()
    for (key, parameter), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        scale_ = other.grad.abs().max().item() + 1e-12
        torch.testing.assert_close(
            parameter.grad / scale_, other.grad / scale_, msg=key, **tolerance
        )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_mdta_of_channels_that_are_zero(dtype):
    """Their norm is no divisor: black borders and dead channels occur."""
    block = MDTA(6, 2).to(dtype)
    x = torch.zeros(1, 4, 4, 6, dtype=dtype, requires_grad=True)
    out = block(x)
    out.sum().backward()
    assert not out.any()
    assert x.grad.isfinite().all()


def test_mdta_of_a_large_flat_map_in_float16():
    """Band by band, sums over all pixels of a band are larger than float16 can hold."""
    block = MDTA(6, 2)
    block.load_state_dict(fill(block.state_dict()))
    x = torch.full((1, 240, 240, 6), 4.0) + 0.1 * torch.arange(6)
    with torch.inference_mode():
        expected, out = block(x), block.half()(x.half())
    torch.testing.assert_close(out.float(), expected, rtol=0.02, atol=0.02)


def test_mlp_has_the_exact_gelu():
    mlp = MLP(4, 5, 3).double()
    x = maps(11, 4)
    hidden = mlp.fc1(x)
    exact = torch.tensor(
        [[h * 0.5 * (1 + math.erf(h / math.sqrt(2))) for h in row] for row in hidden.tolist()],
        dtype=torch.float64,
    )
    torch.testing.assert_close(mlp(x), mlp.fc2(exact))


@pytest.mark.parametrize("rows", [1, 2, 3])
@pytest.mark.parametrize("columns", [1, 2, 3])
def test_shifted_windows_are_masked_as_the_regions_say(rows, columns):
    """Tokens of different regions of the shifted map get -100: the rule, for every map shape."""
    window, channels, heads = 4, 6, 2
    attention = WindowAttention(channels, window, heads, window // 2).double()
    attention.load_state_dict(fill(attention.state_dict()))
    x = maps(2, rows * window, columns * window, channels)
    index = self_attention_index(window)
    out = attention(x, positions_of(window))

    shifted = x.roll((-2, -2), (1, 2))
    mask = shift_mask(rows * window, columns * window, window, window // 2, MASKED).double()
    assert mask.min() == MASKED
    q, k, v = attention.qkv(partition(shifted, window)).chunk(3, -1)
    q, k, v = (
        t.reshape(-1, window**2, heads, channels // heads).transpose(1, 2) for t in (q, k, v)
    )
    bias = attention.relative_position_bias_table[index].permute(2, 0, 1)
    scores = q @ k.transpose(-2, -1) * (channels // heads) ** -0.5 + bias
    scores = scores + mask.repeat(2, 1, 1)[:, None]
    tokens = (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)
    expected = merge(attention.proj(tokens), window, rows * window, columns * window)
    torch.testing.assert_close(out, expected.roll((2, 2), (1, 2)), rtol=0, atol=1e-9)


def test_gradients_of_window_attention_by_differences():
    attention = WindowAttention(4, 2, 2, 1).double()
    attention.load_state_dict(fill(attention.state_dict()))
    positions = positions_of(2)
    x = maps(1, 4, 4, 4).requires_grad_()
    table = attention.relative_position_bias_table

    def through(x, table):
        return nn.utils.stateless.functional_call(
            attention, {"relative_position_bias_table": table}, (x, positions)
        )

    with sdpa_kernel(SDPBackend.MATH):
        assert torch.autograd.gradcheck(through, (x, table.detach().requires_grad_()))


def attention_inputs(windows, dtype=torch.float64):
    """Queries, keys, values and a bias for two heads: 6 queries and 8 keys per window."""
    tokens = [maps(windows, n, 6, seed=n).to(dtype) for n in (6, 8, 9)]
    bias = maps(1, 2, 6, 8, seed=4).to(torch.promote_types(dtype, torch.float32))
    return [x.requires_grad_() for x in (tokens[0], tokens[1], tokens[2][:, :8], bias)]


def plain_attention(q, k, v, bias):
    q, k, v = (x.reshape(*x.shape[:2], 2, 3).transpose(1, 2) for x in (q, k, v))
    scores = q @ k.mT * 3**-0.5 + bias
    return (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)


@pytest.mark.parametrize("chunk", [1, 2 * 6 * 8 * 2, 10**6])
def test_attention_and_its_recomputed_gradients(monkeypatch, chunk):
    """One window at a time, several with a rest, all at once."""
    monkeypatch.setattr(attention_module, "_CHUNK", chunk)
    inputs = attention_inputs(windows=5)
    weight = maps(5, 6, 6, seed=7)
    results = []
    for function in (lambda *x: attend(*x, heads=2), plain_attention):
        out = function(*inputs)
        results.append((out, *torch.autograd.grad((out * weight).sum(), inputs)))
    for ours, expected in zip(*results, strict=True):
        torch.testing.assert_close(ours, expected, rtol=0, atol=1e-12)


def test_attention_learns_in_bfloat16():
    """Weights of bfloat16 beside a bias of float32, as autocast has them."""
    inputs = attention_inputs(5, torch.bfloat16)
    found = torch.autograd.grad(attend(*inputs, heads=2).float().square().sum(), inputs)
    exact = [x.detach().double().requires_grad_() for x in inputs]
    expected = torch.autograd.grad(plain_attention(*exact).square().sum(), exact)
    for x, ours, theirs in zip(inputs, found, expected, strict=True):
        assert ours.dtype == x.dtype
        assert (ours.double() - theirs).abs().max() < 0.03 * theirs.abs().max()


def test_training_keeps_no_attention_matrix():
    inputs = attention_inputs(windows=50, dtype=torch.float32)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, id):
        attend(*inputs, heads=2)
    assert kept
    assert max(kept) < 50 * 2 * 6 * 8


def test_a_group_compiles_and_learns_the_same():
    """Through ahead-of-time autograd, which traces the backward of our own functions too."""
    sizes = HybridSizes(4, 0.5, 2, 2, 0.01, "gdfn", 2.0)
    group = RHAG(6, 2, 2, sizes)
    group.load_state_dict(fill(group.state_dict()))
    positions = positions_of(4)
    x = maps(1, 8, 8, 6).float().requires_grad_()
    out = group(x, positions)
    compiled = torch.compile(group, backend="aot_eager", fullgraph=True)(x, positions)
    torch.testing.assert_close(compiled, out, rtol=0, atol=1e-4)
    inputs = (x, *group.parameters())
    expected = torch.autograd.grad(out.square().sum(), inputs)
    found = torch.autograd.grad(compiled.square().sum(), inputs)
    for ours, theirs in zip(found, expected, strict=True):
        assert (ours - theirs).abs().max() <= 1e-4 * theirs.abs().max()


def test_drop_path_drops_whole_samples_and_keeps_the_mean():
    torch.manual_seed(0)
    drop = DropPath(0.25)
    out = drop(torch.ones(4000, 2, 3))
    assert out.unique().tolist() == [0, pytest.approx(4 / 3)]
    assert torch.equal(out.amin((1, 2)), out.amax((1, 2)))
    assert out.mean().item() == pytest.approx(1, abs=0.05)
    assert drop.eval()(out) is out


def test_windows_and_overlapping_windows():
    x = maps(2, 8, 12, 3)
    windows = partition(x, 4)
    assert torch.equal(merge(windows, 4, 8, 12), x)
    assert torch.equal(windows[1].reshape(4, 4, 3), x[0, :4, 4:8])
    extended = partition_overlapping(x, 4, 6).reshape(2, 2, 3, 6, 6, 3)
    assert torch.equal(extended[1, 1, 1, 1:5, :], x[1, 4:8, 3:9])
    assert extended[0, 0, 0, 0].abs().sum() == 0
    assert torch.equal(extended[0, 0, 0, 1:, 1:], x[0, :5, :5])


def test_padding_reflects_where_it_can_and_replicates_where_it_cannot():
    x = torch.arange(12.0).reshape(1, 1, 3, 4)
    assert PaddingRule(1, "reflect").pad(x) is x
    padded = PaddingRule(5, "reflect").pad(x)
    assert padded.shape == (1, 1, 5, 5)
    assert padded[0, 0, 3:, 0].tolist() == [4, 0]
    assert padded[0, 0, 0, 4] == 2
    tall = PaddingRule(3, "reflect").pad(x[..., :1, :])
    assert tall[0, 0, :, 1].tolist() == [1, 1, 1]
    assert PaddingRule(2, "replicate", smallest=6).pad(x)[0, 0, :, 0].tolist() == [0, 4, 8, 8, 8, 8]


@pytest.mark.parametrize(("length", "missing"), [(1, 5), (5, 1), (6, 0), (7, 1), (8, 0)])
def test_padding_to_a_multiple_from_a_smallest_side_on(length, missing):
    assert PaddingRule(2, "reflect", smallest=6).missing(length) == missing


@pytest.mark.parametrize("values", [1, 6 * 7 * 5])
@pytest.mark.parametrize("name", ["CAB", "GDFN", "MDTA", "norm without bias"])
def test_bands_of_rows_give_the_map_of_the_whole(monkeypatch, name, values):
    """One row at a time, and five with a rest of four."""
    block = BLOCKS[name][0]().double()
    block.load_state_dict(fill(block.state_dict()))
    x = maps(2, 9, 7, 6)
    whole = block(x)
    monkeypatch.setattr(bands, "VALUES", 2 * values)
    with torch.no_grad():
        torch.testing.assert_close(block(x), whole, rtol=0, atol=1e-12)


def test_channel_attention_in_bands_sums_large_values_in_float16(monkeypatch):
    """Their products, summed over a band, exceed what float16 holds."""
    block = BLOCKS["MDTA"][0]()
    block.load_state_dict(fill(block.state_dict()))
    x = 200 * maps(1, 40, 16, 6).float()
    whole = block(x)
    monkeypatch.setattr(bands, "VALUES", 20 * 16 * 6)
    with torch.no_grad(), torch.autocast("cpu", torch.float16):
        found = block(x)
    assert (found - whole).abs().max() < 0.02 * whole.std()


@pytest.mark.parametrize("rows", [1, 2])
def test_bands_of_windows_give_the_map_of_the_whole(monkeypatch, rows):
    """Five rows of windows, shifted and overlapping ones among them."""
    sizes = HybridSizes(4, 0.5, 2, 2, 0.5, "gdfn", 2.0)
    group = RHAG(6, 2, 2, sizes).double().eval()
    group.load_state_dict(fill(group.state_dict()))
    positions = positions_of(4)
    x = maps(2, 20, 12, 6)
    whole = group(x, positions)
    monkeypatch.setattr(bands, "VALUES", rows * 2 * 4 * 12 * 6)
    with torch.no_grad():
        torch.testing.assert_close(group(x, positions), whole, rtol=0, atol=1e-12)


def test_bands_are_for_processors_without_gradients_alone():
    x = torch.zeros(1, 2**10, 16, 32)
    assert len(bands.bands(x)) == 1
    with torch.no_grad():
        assert len(bands.bands(x)) == 2
        assert len(bands.bands(x.to("meta"))) == 1
        compiled = torch.compile(lambda y: len(bands.bands(y)), backend="eager")
        assert compiled(x) == 1
        sizes = [(band.rows.shape[1], band.above, band.below) for band in bands.bands(x, 3, 7)]
    assert sizes == [(511 + 3, 0, 3), (3 + 511 + 2, 3, 2), (3 + 2, 3, 0)]


@pytest.mark.parametrize(
    ("scale", "convolutions"),
    [(1, {}), (2, {0: 8}), (3, {0: 18}), (4, {0: 8, 2: 8}), (8, {0: 8, 2: 8, 4: 8})],
)
def test_upsampling_is_by_twos_or_by_three(scale, convolutions):
    """As in published checkpoints: index and output channels of each convolution, of 2 channels."""
    layers = sub_pixel_convolutions(2, scale)
    shapes = {name: tuple(value.shape) for name, value in layers.state_dict().items()}
    weights = {f"{i}.weight": (count, 2, 3, 3) for i, count in convolutions.items()}
    assert shapes == weights | {f"{i}.bias": (count,) for i, count in convolutions.items()}
    assert layers(torch.rand(1, 2, 3, 5)).shape == (1, 2, 3 * scale, 5 * scale)
