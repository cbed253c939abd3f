import re

import pytest
import torch
import torch.nn.functional as F
from network_tools import gradients, restore, without_gradient
from small_networks import SMALL
from vector_tools import filled, image, parameter_count, shapes

from cir_arch.fbcnn_arch import FBCNN
from cir_arch.tempest_arch import QualityAttention, Tempest
from cir_host.errors import UserError
from cir_model.restoring.pixel_quality import estimator


def small(**arguments):
    torch.manual_seed(0)
    return Tempest(**{**SMALL["Tempest"], **arguments})


def strong(**arguments):
    """A small network whose offsets matter."""
    return filled(small(**arguments))


def with_quality(network, x):
    return network(x, return_quality=True)


def test_the_default_is_of_the_size_that_the_report_states():
    """122 MB: one of the choices was made for it, so this proves nothing about the others."""
    with torch.device("meta"):
        assert parameter_count(Tempest()) == 32_011_175


def test_by_its_definition():
    """Each scale: local and global embedding, attention, offset; the image from below upwards."""
    network = strong().double()
    x = image(16, 24, batch=2).double()

    def conv(layer, y):
        return F.conv2d(y, layer.weight, layer.bias, padding=layer.weight.shape[-1] // 2)

    def linear(layer, y):
        return y @ layer.weight.T + layer.bias

    def blocks(stage, y):
        for block in stage:
            y = y + conv(block.res[2], conv(block.res[0], y).relu())
        return y

    y, maps = conv(network.m_head, x), []
    for stage in (network.m_down1, network.m_down2, network.m_down3):
        maps.append(blocks(stage[:-1], y))
        y = F.conv2d(maps[-1], stage[-1].weight, stage[-1].bias, stride=2)
    maps.append(blocks(network.m_body_encoder, y))

    def embedding(key):
        first, _, second = network.qf_global[key]
        return linear(second, linear(first, maps[int(key) - 1].mean((2, 3))).relu())

    found = {key: embedding(key) for key in "1234"}

    def offset(key):
        first, _, second = network.qf_local[key]
        local = conv(second, conv(first, maps[int(key) - 1]).relu()).movedim(1, -1)
        attend = network.qf_attend[key]
        asked = linear(attend.q, local)
        scores = [
            (asked * linear(attend.k, one)[:, None, None]).sum(-1) / asked.shape[-1] ** 0.5
            for one in found.values()
        ]
        values = [linear(attend.v, one)[:, None, None] for one in found.values()]
        shares = torch.stack(scores).softmax(0)
        update = sum(share[..., None] * value for share, value in zip(shares, values, strict=True))
        local = (local + linear(attend.o, update)).movedim(-1, 1)
        whole = linear(network.qf_offset_global[key], found[key])[..., None, None]
        return conv(network.qf_offset_local[key], local) + whole

    y = blocks(network.m_body_decoder, maps[3] + offset("4"))
    for key, stage in (("3", network.m_up3), ("2", network.m_up2), ("1", network.m_up1)):
        y = F.conv_transpose2d(y, stage[0].weight, stage[0].bias, stride=2)
        y = blocks(stage[1:], y + maps[int(key) - 1] + offset(key))
    qualities = [linear(network.qf_score[key], one).sigmoid() for key, one in found.items()]
    out, quality = with_quality(network, x)
    torch.testing.assert_close(out, conv(network.m_tail, y) + x, rtol=0, atol=1e-9)
    torch.testing.assert_close(quality, sum(qualities) / 4, rtol=0, atol=1e-12)


def test_without_the_skip_the_image_is_not_added():
    network, other = strong(), strong(global_skip=False)
    x = image(17, 24)
    torch.testing.assert_close(restore(network, x), restore(other, x) + x, rtol=0, atol=1e-5)


def test_the_offsets_start_at_zero():
    """Then the image is that of the U-Net, whatever the quality; it learns to use them."""
    network, x = small(identity_start=True), image(16, 24)
    before = restore(network, x)
    for layers in (network.qf_local, network.qf_global, network.qf_attend):
        for parameter in layers.parameters():
            torch.nn.init.normal_(parameter)
    assert torch.equal(restore(network, x), before)
    found = gradients(network, x)
    for scale in "1234":
        for kind in ("global", "local"):
            assert found[f"qf_offset_{kind}.{scale}.weight"].any()
    assert not torch.equal(restore(small(), x), restore(small(identity_start=True), x))


def test_from_zero_offsets_everything_learns_after_one_step():
    network, x = small(identity_start=True).double(), image(16, 24).double()
    first = gradients(network, x)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.startswith("qf_offset"):
                parameter -= 0.1 * first[name]
    unused = re.compile(Tempest.entry.unused_parameters)
    assert all(unused.fullmatch(name) for name in without_gradient(network, x))


def test_the_u_net_has_the_keys_of_fbcnn():
    """A checkpoint loads as far as the networks agree: all but what the quality belongs to."""
    sizes = {"nc": (8, 8, 12, 16), "nb": 1}

    def of_the_image(network):
        quality = ("qf_", "to_")
        return {k: v for k, v in shapes(network).items() if not k.startswith(quality)}

    base = FBCNN(**sizes, quality_nc=8)
    network = small(**sizes)
    assert of_the_image(network) == of_the_image(base)
    missing, unexpected = network.load_state_dict(base.state_dict(), strict=False)
    assert all(key.startswith("qf_") for key in missing)
    assert all(key.startswith(("qf_", "to_")) for key in unexpected)


def test_the_deep_loss_sees_every_scale_while_training():
    network, x = strong(quality_deep_loss=True), image(16, 24, batch=2)
    quality = with_quality(network, x)[1]
    assert quality.shape == (2, 1)
    scales = with_quality(network.train(), x)[1]
    assert scales.shape == (2, 4)
    torch.testing.assert_close(scales.mean(1, keepdim=True), quality)
    assert scales.std() > 0
    assert with_quality(strong().train(), x)[1].shape == (2, 1)


def test_no_quality_can_be_given():
    assert small().facts.extra_inputs == ()
    with pytest.raises(TypeError, match="quality"):
        small()(image(8, 8), quality=0.5)


def test_it_estimates_the_quality_of_files():
    network, x = strong(), image(40, 33, batch=2)
    assert estimator([network], torch.device("cpu")) is network
    _, quality = with_quality(network, x)
    torch.testing.assert_close(network.predict_quality(x), 100 - 100 * quality)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_attention_to_the_scales_in_half_precision(precision):
    attention = QualityAttention(8)
    local, scales = torch.randn(2, 8, 5, 6), torch.randn(2, 4, 8)
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    expected = attention(local, scales)
    with torch.autocast("cpu", dtype):
        found = attention(local, scales)
    assert found.shape == local.shape
    torch.testing.assert_close(found.float(), expected, rtol=0, atol=0.02)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [({"nc": (8, 8, 8)}, "nc: "), ({"embed_nc": 0}, "embed_nc: ")],
)
def test_impossible_arguments_are_named(arguments, named):
    with pytest.raises(UserError, match=named):
        small(**arguments)
