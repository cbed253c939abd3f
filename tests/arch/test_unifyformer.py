import pytest
import torch
import torch.nn.functional as F

from cir_arch.layers.feed_forward import GDFN
from cir_arch.unifyformer_arch import (
    ChannelNorm,
    LocalAggregator,
    UnifyAttention,
    UnifyFormer,
    patch_embedding,
)
from cir_host.errors import UserError


def small(**arguments):
    torch.manual_seed(0)
    sizes = {"dim": 10, "num_blocks": (1, 2, 1, 1), "num_refinement_blocks": 1}
    return UnifyFormer(**{**sizes, **arguments})


def exact_gelu(x):
    return x * 0.5 * (1 + torch.erf(x / 2**0.5))


def normed(x, norm):
    """Normalise (B, C, H, W) over its channels."""
    centred = x - x.mean(1, keepdim=True)
    return centred / (centred.square().mean(1, keepdim=True) + 1e-5).sqrt() * norm.g + norm.b


@pytest.mark.parametrize(("heads", "scale"), [(1, 20**-0.5), (2, 10**-0.5), (4, 5**-0.5)])
def test_unify_attention_by_its_definition(heads, scale):
    """Interleaved projections, shared convolutions, heads last going in and first coming out.

    Large inputs tell the exact GELU from the tanh form, which the vectors do not.
    """
    module, x = UnifyAttention(20, heads), 3 * torch.randn(2, 20, 6, 7)
    found = module(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    z = F.conv2d(x, module.qkv.weight)
    aggregators = module.aggregator
    parts = [[z[:, i::3][:, 4 * s : 4 * s + 4] for s in range(5)] for i in range(3)]
    q, k, v = (
        torch.cat(
            [exact_gelu(part[0])]
            + [
                exact_gelu(_separable(segment, conv))
                for segment, conv in zip(
                    part[1:4], (aggregators.agg1, aggregators.agg2, aggregators.agg3), strict=True
                )
            ],
            1,
        ).flatten(2)
        for part in parts
    )
    interleaved = torch.stack([part[4] for part in parts], 2).flatten(1, 2)
    local = _separable(interleaved, aggregators.agg0.conv)
    local = exact_gelu(normed(local, aggregators.agg0.norm.body))
    outs = []
    for head in range(heads):
        q_, k_, v_ = q[:, head::heads], k[:, head::heads].softmax(2), v[:, head::heads]
        context = torch.einsum("bin,bjn->bij", k_, v_)
        outs.append(scale * torch.einsum("bin,bij->bjn", q_, context))
    attended = torch.cat(outs, 1).unflatten(2, (6, 7))
    expected = F.conv2d(torch.cat((attended, local), 1), module.proj.weight)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def _separable(x, conv):
    weight = conv.conv1.weight
    y = F.conv2d(x, weight, padding=weight.shape[-1] // 2, groups=x.shape[1])
    return F.conv2d(y, conv.pointwise_conv.weight)


def test_local_aggregator_uses_the_exact_gelu():
    module, x = LocalAggregator(6, 4), torch.randn(1, 6, 9, 8)
    torch.nn.init.constant_(module.norm.body.g, 3)
    found = module(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    expected = exact_gelu(normed(_separable(x, module.conv), module.norm.body))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_patch_embedding_uses_the_exact_gelu():
    module, x = patch_embedding(3, 20), 10 * torch.randn(1, 3, 6, 5)
    y = x
    for i in (0, 2, 4, 6):
        y = F.conv2d(y if i == 0 else exact_gelu(y), module.proj[i].weight, padding=1)
    found = module(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    torch.testing.assert_close(found, y, rtol=1e-5, atol=1e-6)


def test_norm_of_a_dim_map():
    """Tells an epsilon of 1e-5 from 1e-6."""
    module, x = ChannelNorm(6), 0.005 * torch.randn(2, 6, 3, 4)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter)
    found = module(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    torch.testing.assert_close(found, normed(x, module.body), rtol=1e-4, atol=1e-5)


def test_feed_forward_gates_by_the_exact_gelu():
    """Vectors do not tell it from the tanh form."""
    block = GDFN(4, 2.66, bias=False)
    x = 3 * torch.randn(1, 6, 5, 4)
    hidden = F.conv2d(x.permute(0, 3, 1, 2), block.project_in.weight)
    gate, value = F.conv2d(hidden, block.dwconv.weight, padding=1, groups=20).chunk(2, 1)
    gated = exact_gelu(gate) * value
    expected = F.conv2d(gated, block.project_out.weight).permute(0, 2, 3, 1)
    torch.testing.assert_close(block(x), expected, rtol=1e-5, atol=1e-6)


def test_hidden_channels_are_rounded_half_to_even():
    """2.66 x 400 / 16 is 66.5, which becomes 66."""
    with torch.device("meta"):
        block = UnifyFormer(dim=50).latent[0]
    assert block.ffn1.project_out.in_channels == block.ffn2.project_out.in_channels == 1056


@pytest.mark.parametrize(
    ("arguments", "named"),
    [({"dim": 48}, "dim: 48"), ({"dim": 15}, "dim: 15"), ({"heads": (1, 2, 4, 5)}, "heads: 5")],
)
def test_contradictory_arguments_are_named(arguments, named):
    with pytest.raises(UserError, match=named):
        small(**arguments)
