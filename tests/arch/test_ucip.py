"""UCIP: what the published numbers do not show."""

import copy
import math

import pytest
import torch
from naive_ucip import NaiveUCIP
from torch.nn.functional import layer_norm
from torchvision.ops import deform_conv2d
from vector_tools import filled, image, published_shapes

from cir_arch.layers.line_sampling import line_taps, sample_line
from cir_arch.ucip_arch import CODECS, UCIP, PromptModulation
from cir_host.errors import UserError

SMALL = {
    "embed_dim": 16,
    "depths": (3, 2),
    "p_dim": 8,
    "prompt_bases": 4,
    "modulation_hidden": 8,
    "num_feat": 8,
}


def small(**changes):
    torch.manual_seed(0)
    return filled(UCIP(**{**SMALL, **changes}))


def plain(network):
    """The naive form, with the network's own parameters."""
    naive = copy.copy(network)
    naive.__class__ = NaiveUCIP
    return naive


def relative_error(found, expected):
    return ((found - expected).std() / expected.std()).item()


# Line sampling


@pytest.mark.parametrize("axis", [1, 2])
def test_line_sampling_equals_deformable_convolution(axis):
    torch.manual_seed(axis)
    x = torch.randn(2, 5, 7, 6, dtype=torch.float64)
    offset = torch.randn(2, 5, 7, 3, dtype=torch.float64) * 4
    offset[0, 0, 0] = torch.tensor([0.0, 1.0, -0.5])
    offset[0, 2, 3] = torch.tensor([100.0, -100.0, 2.0])
    factor = torch.randn_like(x)

    def ours(x, offset):
        return sample_line(x, line_taps(offset, axis, 6))

    def deformed(x, offset):
        moved = offset.repeat_interleave(2, dim=-1)
        pair = (moved, torch.zeros_like(moved)) if axis == 1 else (torch.zeros_like(moved), moved)
        kernel = torch.eye(6, dtype=x.dtype)[:, :, None, None]
        pairs = torch.stack(pair, dim=-1).flatten(-2).permute(0, 3, 1, 2)
        return deform_conv2d(x.permute(0, 3, 1, 2), pairs, kernel).permute(0, 2, 3, 1)

    results = []
    for function in (ours, deformed):
        inputs = x.clone().requires_grad_(), offset.clone().requires_grad_()
        output = function(*inputs)
        results.append((output, *torch.autograd.grad((output * factor).sum(), inputs)))
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_line_sampling_outside_the_line_reads_zeros():
    x = torch.tensor([10.0, 20.0, 40.0]).reshape(1, 1, 3, 1)
    offset = torch.tensor([-0.25, -3.0, 0.75]).reshape(1, 1, 3, 1)
    read = sample_line(x, line_taps(offset, 2, 1)).flatten()
    assert read.tolist() == [7.5, 0.0, 10.0]


def test_line_sampling_of_half_precision_maps_keeps_positions_apart():
    """From 128 on bfloat16 has no fractions, from 256 on not even odd numbers."""
    ramp = torch.arange(400.0).reshape(1, 1, 400, 1).bfloat16()
    offset = torch.full((1, 1, 400, 1), 0.25, dtype=torch.bfloat16)
    taps = line_taps(offset, 2, 1)
    assert taps.weight.dtype == torch.float32
    assert taps.weight.flatten().tolist() == [0.25] * 400
    assert taps.lower.tolist() == list(range(1, 401))
    assert sample_line(ramp, taps).dtype == torch.bfloat16


@pytest.mark.parametrize("axis", [1, 2])
def test_offsets_that_are_no_numbers_do_not_read_outside_the_map(axis):
    x = torch.ones(1, 3, 3, 2)
    values = [math.nan, math.inf, -math.inf, 3e38, -3e38, 0, 0, 0, math.nan]
    read = sample_line(x, line_taps(torch.tensor(values).reshape(1, 3, 3, 1), axis, 2))
    expected = torch.tensor([math.nan, 0, 0, 0, 0, 1, 1, 1, math.nan]).reshape(1, 3, 3, 1)
    torch.testing.assert_close(read, expected.expand_as(x), equal_nan=True)


def test_line_sampling_counts_in_64_bits_where_32_do_not_suffice():
    sides = {torch.int32: 4093, torch.int64: 4094}  # 2 ** 31 values with padding at 4094
    for dtype, width in sides.items():
        offset = torch.empty(1, 4096, width, 64, device="meta")
        assert line_taps(offset, 2, 128).lower.dtype == dtype, width


# Against the plain form, in float64


def test_far_offsets_agree_with_the_plain_form():
    """Float32 cannot tell: with such offsets two exact forms differ by more than the contrast."""
    network = small().double()
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if ".offset_layer.1." in name:
                parameter *= 8
        x = image(9, 14, seed=3).double()
        torch.testing.assert_close(network(x, 2), plain(network)(x, 2), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("height", "width", "batch"), [(1, 1, 2), (1, 2, 1), (7, 1, 1), (5, 9, 3), (16, 8, 1)]
)
def test_any_size_agrees_with_the_plain_form(height, width, batch):
    network = small().double()
    x = image(height, width, seed=4, batch=batch).double()
    codecs = [5, 0, 3][:batch]
    output = network(x, torch.tensor(codecs))
    assert output.shape == (batch, 3, 4 * height, 4 * width)
    torch.testing.assert_close(output, plain(network)(x, torch.tensor(codecs)), rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    "changes",
    [
        {"upscale": 1},
        {"upscale": 2, "depths": (1,)},
        {"upscale": 8, "depths": (2,), "in_channels": 1},
        {"share_dim": 4},
        {"intv": 3, "depths": (5,)},
        {"mlp_ratio": 1.5, "fusion_squeeze": 8, "num_codecs": 2},
    ],
    ids=str,
)
def test_other_sizes_of_the_network_agree_with_the_plain_form(changes):
    network = small(**changes).double()
    x = image(6, 7, seed=5).double()[:, : network.facts.in_channels]
    output = network(x, 1)
    assert output.shape[-1] == 7 * network.facts.scale
    torch.testing.assert_close(output, plain(network)(x, 1), rtol=0, atol=1e-10)


def test_norms_of_a_dim_map_show_their_epsilon():
    """A wrong epsilon is invisible in features of ordinary size."""
    torch.manual_seed(0)
    x = 0.02 * torch.randn(1, 4, 5, 16)
    network = small()
    modulation = network.blocks[0][0].spade
    for conv in (modulation.mlp_gamma, modulation.mlp_beta):
        torch.nn.init.zeros_(conv.weight)
        torch.nn.init.zeros_(conv.bias)
    rows = x.flatten(1, 2)
    expected = (rows - rows.mean(1)) / (rows.var(1, correction=0) + 1e-5).sqrt()
    torch.testing.assert_close(modulation(x, torch.rand(1, 4, 5, 8)).flatten(1, 2), expected)
    for module in network.modules():
        if isinstance(module, torch.nn.LayerNorm):
            assert module.eps == 1e-5
    offset_layer = network.blocks[0][0].offset_layer
    prompt = 0.02 * torch.randn(1, 4, 5, 8)
    norm, linear = offset_layer
    normed = layer_norm(torch.cat((x, prompt), -1), (24,), norm.weight, norm.bias, 1e-5)
    expected = line_taps(linear(normed)[..., 8:], 1, 16)
    torch.testing.assert_close(offset_layer(x, prompt)[1].weight, expected.weight)


def test_instance_norm_of_one_pixel_is_zero():
    modulation = PromptModulation(4, 2, 3)
    prompt = torch.rand(1, 1, 1, 2)
    expected = modulation.mlp_beta(modulation.mlp_shared(prompt))
    torch.testing.assert_close(modulation(torch.rand(1, 1, 1, 4), prompt), expected)


# The codec


def test_codec_per_image_equals_each_image_alone():
    network = small()
    x = image(6, 5, seed=6, batch=3)
    with torch.no_grad():
        together = network(x, torch.tensor([4, 0, 4]))
        alone = [network(x[i : i + 1], codec) for i, codec in enumerate((4, 0, 4))]
    torch.testing.assert_close(together, torch.cat(alone))
    assert relative_error(network(x[:1], 0), alone[0]) > 1e-3, "the codec makes no difference"


def test_unknown_codec_reads_the_mean_of_all_banks():
    network, averaged = small(), small()
    with torch.no_grad():
        for prompt in averaged.prompts:
            prompt.prompt[:] = prompt.prompt.mean(dim=0, keepdim=True)
        x = image(6, 5, seed=7)
        torch.testing.assert_close(network(x), averaged(x, 3))
        assert relative_error(network(x), network(x, 0)) > 1e-3


def test_task_weights_start_at_the_rule_for_unknown_codecs():
    torch.manual_seed(0)
    network = UCIP(**SMALL, task_weights=True)
    without = UCIP(**SMALL)
    missing, unexpected = network.load_state_dict(small().state_dict(), strict=False)
    without.load_state_dict(small().state_dict())
    assert {key.split(".")[2] for key in missing} == {"task_mlp"}
    assert not unexpected
    x = image(6, 5, seed=8)
    with torch.no_grad():
        torch.testing.assert_close(network(x), without(x))


def test_task_weights_depend_on_the_features_and_can_choose_a_codec():
    network = small(task_weights=True)
    x = image(6, 5, seed=9)
    soft = network(x)
    soft.square().sum().backward()
    for prompt in network.prompts:
        assert prompt.prompt.grad.abs().flatten(1).sum(1).gt(0).all()
        assert prompt.task_mlp.fc1.weight.grad.abs().max() > 0
    with torch.no_grad():
        for prompt in network.prompts:
            prompt.task_mlp.fc2.bias[2] = 1e4
        torch.testing.assert_close(network(x), network(x, 2))
    assert relative_error(soft, network(x, 2)) > 1e-3


@pytest.mark.parametrize(
    "codec",
    [
        6,
        -1,
        torch.tensor([0, 6]),
        torch.tensor([-1, 0]),
        torch.tensor([0]),
        torch.tensor(0),
        torch.tensor([0.0, 1.0]),
    ],
    ids=str,
)
def test_impossible_codecs_are_refused(codec):
    with pytest.raises(UserError, match="codec must be an index from 0 to 5"):
        small()(image(4, 4, batch=2), codec)


def test_codecs_have_names_for_all_published_banks():
    assert len(CODECS) == published_shapes("ucip")[0]["prompts.0.prompt"][0]


# Training


def test_every_parameter_gets_a_gradient():
    """But the last bias of the MLPs, which the instance norm behind it takes away."""
    network = small().double()
    network(image(6, 7, seed=10).double(), 1).square().sum().backward()
    for name, parameter in network.named_parameters():
        size = parameter.grad.abs().max().item()
        if name.startswith("blocks.") and name.endswith(".mlp.fc2.bias"):
            assert size < 1e-10, name
        else:
            assert size > 1e-8, name
    used = network.prompts[0].prompt.grad.flatten(1).abs().sum(dim=1) > 0
    assert used.tolist() == [False, True, False, False, False, False]


def test_gradients_are_those_of_the_plain_form():
    network = small().double()
    x = image(5, 6, seed=11).double()
    found, expected = (
        torch.autograd.grad(output.square().sum(), list(network.parameters()))
        for output in (network(x, 4), plain(network)(x, 4))
    )
    for (name, _), ours, theirs in zip(network.named_parameters(), found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-9, msg=name)


def test_checkpointing_keeps_less_and_changes_nothing():
    x = image(6, 7, seed=12)
    gradients, kept = [], []
    for use_checkpoint in (False, True):
        network, saved = small(use_checkpoint=use_checkpoint), []
        with torch.autograd.graph.saved_tensors_hooks(saved.append, lambda _: pytest.fail()):
            network(x)
        network(x).square().sum().backward()
        gradients.append([parameter.grad for parameter in network.parameters()])
        kept.append(len(saved))
    assert kept[1] < kept[0] / 2
    for ours, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, expected)


def test_initial_values():
    torch.manual_seed(0)
    network = UCIP(embed_dim=64, depths=(2,), num_feat=32)
    block = network.blocks[0][0]
    stds = {
        block.mlp.fc1: 0.02,
        block.atm.atm_w: 0.02,
        block.atm.atm_h: 0.02,
        block.atm.proj: 0.02,
        block.atm.atm_local: math.sqrt(2 / 25),
        block.spade.mlp_gamma: math.sqrt(2 / (9 * 64)),
        network.conv_hr: math.sqrt(2 / (9 * 32)),
    }
    for layer, std in stds.items():
        assert layer.weight.std().item() == pytest.approx(std, rel=0.1)
        assert not layer.bias.any()
    prompt = network.prompts[0].prompt
    assert prompt.min() >= 0
    assert prompt.max() < 1
    assert prompt.mean().item() == pytest.approx(0.5, abs=0.05)


# What tools rely on


def test_offsets_ignore_autocast():
    layer = small().blocks[0][0].offset_layer
    inputs = torch.randn(1, 4, 5, 16), torch.randn(1, 4, 5, 8)
    with torch.autocast("cpu", torch.bfloat16):
        found = layer(*inputs)
    for ours, expected in zip(found, layer(*inputs), strict=True):
        torch.testing.assert_close(ours.weight, expected.weight, rtol=0, atol=0)


def test_facts():
    network = small()
    facts = network.facts
    assert (facts.scale, facts.size_multiple, facts.min_size) == (4, 1, 1)
    assert facts.halo is None
    x = image(12, 40, seed=15)
    changed = x.clone()
    changed[..., 0, 0] = 1 - changed[..., 0, 0]
    with torch.no_grad():
        moved = (network(changed) - network(x))[..., -4:, -4:].abs().max()
    assert moved > 0, "the norm and the mean of the mixer reach over the whole map"


def test_runs_on_the_meta_device():
    with torch.device("meta"):
        network = UCIP(**SMALL)
        x = torch.empty(2, 3, 10, 12)
        codec = torch.zeros(2, dtype=torch.int64)
    assert network(x).shape == network(x, codec).shape == (2, 3, 40, 48)


def test_is_one_graph_for_compilers_at_any_size():
    network = small(depths=(2,))
    compiled = torch.compile(network, backend="eager", fullgraph=True, dynamic=True)
    with torch.no_grad():
        for height, width in ((6, 7), (9, 5)):
            x = image(height, width, seed=16)
            torch.testing.assert_close(compiled(x), network(x))


def test_onnx_export_with_dynamic_sizes(tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    network, path = small(), tmp_path / "ucip.onnx"
    sides = {2: torch.export.Dim.AUTO, 3: torch.export.Dim.AUTO}
    exported = torch.onnx.export(
        network, (image(6, 7),), dynamo=True, dynamic_shapes=(sides,), verbose=False
    )
    exported.save(str(path))
    session = onnxruntime.InferenceSession(str(path))
    for height, width in ((6, 7), (9, 5)):
        x = image(height, width, seed=17)
        (found,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
        with torch.no_grad():
            torch.testing.assert_close(torch.from_numpy(found), network(x), rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"share_dim": 3}, "embed_dim 16 must be a multiple of share_dim 3"),
        ({"fusion_squeeze": 3}, "fusion_squeeze 3"),
        ({"upscale": 3}, "upscale 3 must be a power of 2"),
        ({"upscale": 0}, "upscale 0"),
        ({"intv": 0}, "intv 0"),
    ],
)
def test_contradictory_arguments_are_refused(arguments, message):
    with pytest.raises(UserError, match=message):
        UCIP(**{**SMALL, **arguments})
