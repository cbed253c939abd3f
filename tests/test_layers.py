"""Building blocks alone, in float64: what a whole network in float32 would not show."""

import math
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from vector_tools import fill

from cir_arch.layers.channel_attention import CAB
from cir_arch.layers.dynamic_prompt import DynamicPrompt
from cir_arch.layers.feed_forward import GDFN, MLP
from cir_arch.layers.norm import LayerNorm
from cir_arch.layers.padding import pad_to_multiple
from cir_arch.layers.transposed_attention import MDTA
from cir_arch.layers.window_attention import (
    MASKED,
    WindowAttention,
    merge,
    partition,
    partition_overlapping,
    self_attention_index,
)

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))
import naive_promptcir as naive

BLOCKS = {
    "norm": (lambda: LayerNorm(6), lambda: naive.ChannelNorm(6)),
    "CAB": (lambda: CAB(6, 4, 3), lambda: naive.CAB(6, 4, 3)),
    "GDFN": (lambda: GDFN(6, 2.66, bias=True), lambda: naive.GDFN(6, 2.66, bias=True)),
    "MDTA": (lambda: MDTA(6, 2), lambda: naive.MDTA(6, 2)),
    "prompt": (lambda: DynamicPrompt(6, 3, 4, 5), lambda: naive.DynamicPrompt(6, 3, 4, 5)),
}


def maps(*shape, seed=0, scale=1.0):
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(*shape, generator=generator, dtype=torch.float64)


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
    # MDTA takes its norms in float32 under any dtype
    tolerance = {"rtol": 0, "atol": 1e-6 if name == "MDTA" else 1e-9}
    torch.testing.assert_close(out, expected, **tolerance)
    weight = maps(*expected.shape, seed=1)
    (out * weight).sum().backward()
    (expected * weight).sum().backward()
    for (key, parameter), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        scale_ = other.grad.abs().max().item() + 1e-12
        torch.testing.assert_close(
            parameter.grad / scale_, other.grad / scale_, msg=key, **tolerance
        )


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
    out = attention(x, index)

    shifted = x.roll((-2, -2), (1, 2))
    mask = naive.shift_mask(rows * window, columns * window, window).double()
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
    index = self_attention_index(2)
    x = maps(1, 4, 4, 4).requires_grad_()
    table = attention.relative_position_bias_table

    def through(x, table):
        return nn.utils.stateless.functional_call(
            attention, {"relative_position_bias_table": table}, (x, index)
        )

    with sdpa_kernel(SDPBackend.MATH):
        assert torch.autograd.gradcheck(through, (x, table.detach().requires_grad_()))


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
    assert pad_to_multiple(x, 1) is x
    padded = pad_to_multiple(x, 5)
    assert padded.shape == (1, 1, 5, 5)
    assert padded[0, 0, 3:, 0].tolist() == [4, 0]
    assert padded[0, 0, 0, 4] == 2
    tall = pad_to_multiple(x[..., :1, :], 3)
    assert tall[0, 0, :, 1].tolist() == [1, 1, 1]
