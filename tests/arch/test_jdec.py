"""JDEC beyond what holds for all networks: planes, mirrored blocks, pixels of tokens, its file."""

import math

import pytest
import torch
from network_tools import input_for, restore
from vector_tools import coefficients, fill, shapes

from cir_arch import jdec_arch, load_network, recognise
from cir_arch.jdec_arch import JDEC
from cir_arch.layers.dct import dct_matrix
from cir_arch.layers.jpeg_planes import mirrored_to, split
from cir_arch.network import entry_named
from cir_host.checkpoint import read_checkpoint
from cir_host.errors import UserError


def small(**arguments):
    torch.manual_seed(0)
    network = JDEC(**{**entry_named("JDEC").small, **arguments}).eval()
    network.load_state_dict(fill(network.state_dict()))
    return network


def samples(blocks):
    """Decode blocks (B, C, R, S, 8, 8) to (B, C, 8 R, 8 S)."""
    basis = dct_matrix()
    return (basis.T @ blocks @ basis).transpose(3, 4).flatten(4, 5).flatten(2, 3)


def transformed(image):
    """Return the blocks of (B, C, H, W)."""
    basis = dct_matrix()
    return basis @ image.unflatten(3, (-1, 8)).unflatten(2, (-1, 8)).transpose(3, 4) @ basis.T


@pytest.mark.parametrize(("rows", "columns"), [(3, 5), (5, 2), (4, 7), (13, 11)])
def test_mirrored_blocks_are_those_of_the_mirrored_picture(rows, columns):
    """Of a picture of 3 x 2 blocks; 13 and 11 are mirrored several times."""
    picture = torch.rand(2, 3, 24, 16)
    periodic = torch.cat((picture, picture.flip(2)), 2).repeat(1, 1, 3, 1)
    periodic = torch.cat((periodic, periodic.flip(3)), 3).repeat(1, 1, 1, 3)
    found = samples(mirrored_to(transformed(picture), rows, columns))
    torch.testing.assert_close(found, periodic[..., : 8 * rows, : 8 * columns])


def test_a_grid_that_is_large_enough_stays():
    blocks = torch.rand(1, 1, 3, 2, 8, 8)
    assert mirrored_to(blocks, 3, 2) is blocks


@pytest.mark.parametrize(("height", "width"), [(48, 80), (16, 128), (112, 32)])
def test_any_size_is_restored_as_a_part_of_the_mirrored_picture(height, width):
    network = small()
    planes = 1000 * coefficients(height, width).div(1100)
    tall, wide = (-(-side // 112) * 112 for side in (height, width))
    blocks = split(planes, "JDEC")
    whole = planes.new_zeros(1, 3, tall, wide)
    luma = mirrored_to(blocks.luma, tall // 8, wide // 8)
    whole[:, :1] = luma.transpose(3, 4).flatten(4, 5).flatten(2, 3)
    chroma = mirrored_to(blocks.chroma, tall // 16, wide // 16)
    for row in range(tall // 16):
        for column in range(wide // 16):
            square = whole[:, 1:, 16 * row : 16 * row + 16, 16 * column : 16 * column + 16]
            square[:, :, :8, :8] = chroma[:, :, row, column]
            square[:, :, 8:, 8:] = blocks.tables
    expected = restore(network, whole)[..., :height, :width]
    torch.testing.assert_close(restore(network, planes), expected, rtol=0, atol=1e-5)


def test_a_part_on_the_grid_has_the_blocks_of_the_whole():
    planes = coefficients(48, 64)
    whole, part = split(planes, "JDEC"), split(planes[..., 16:, 32:], "JDEC")
    assert torch.equal(part.luma, whole.luma[:, :, 2:, 4:])
    assert torch.equal(part.chroma, whole.chroma[:, :, 1:, 2:])
    assert torch.equal(part.tables, whole.tables)


def test_coefficients_are_clamped_and_tables_are_not():
    network, planes = small(), coefficients(112, 112) / 2
    beyond = planes.clone()
    beyond[:, 0, 3, 5], beyond[:, 0, 8, 9] = 5000, -5000
    within = planes.clone()
    within[:, 0, 3, 5], within[:, 0, 8, 9] = 1016, -1024
    assert torch.equal(restore(network, beyond), restore(network, within))
    for steps in (1016, 5000):
        planes[:, 1, 8::16, 8::16] = steps
        within = restore(network, planes) if steps == 1016 else within
    assert not torch.equal(restore(network, planes), within)


def test_pixels_lie_around_the_middle_of_the_range():
    network = small()
    last = network.dequantizator.layers[-1]
    torch.nn.init.zeros_(last.weight)
    torch.nn.init.zeros_(last.bias)
    assert (restore(network, coefficients(32, 48)) == 0.5).all()


@pytest.mark.parametrize("rows", [28, 84])
def test_equal_tokens_have_equal_pixels_wherever_they_are(rows):
    """Also in a picture of 336 rows, where float32 coordinates lose count."""
    network = small()
    waves = 3 * torch.rand(1, 1, 1, 3 * 24).expand(1, rows, 7, -1)
    with torch.no_grad():
        pixels = network._image(waves)
    expected = pixels[..., :4, :4].repeat(1, 1, rows, 7)
    torch.testing.assert_close(pixels, expected, rtol=0, atol=1e-6)
    assert pixels[..., :4, :4].std() > 0.01


def test_strips_change_no_pixel(monkeypatch):
    network, x = small(), input_for(small().facts, 112, 224, batch=2)
    expected = network(x).detach()  # at once, for the gradient
    seen = []
    network.dequantizator.layers.register_forward_pre_hook(lambda _, x: seen.append(x[0].shape[1]))
    for limit, most in ((1, 1), (2 * 56 * 24 * 16 * 3, 3)):
        seen.clear()
        monkeypatch.setattr(jdec_arch, "_STRIP", limit)
        with torch.no_grad():
            torch.testing.assert_close(network(x), expected, rtol=0, atol=1e-6)
        assert max(seen) == most
        assert sum(seen) == 28


def test_new_blocks_before_the_groups_pass_their_input():
    x = torch.rand(1, 14, 7, 16)
    torch.manual_seed(0)
    sizes = {**entry_named("JDEC").small, "zero_start": True}
    encoder = JDEC(**sizes).encoder_dct
    assert torch.equal(encoder.layers[0](x), x)
    block = encoder.layers_RSTB[0].residual_group.blocks[0]
    assert not torch.equal(block(x), x)


def test_temperature_ends_at_100():
    network, x = small(), input_for(small().facts, 112, 112)
    scale = network.encoder_dct.layers[0].blocks[0].attn.logit_scale
    outputs = []
    for value in (4.0, math.log(100), 6.0):
        torch.nn.init.constant_(scale, value)
        outputs.append(restore(network, x))
    assert torch.equal(outputs[1], outputs[2])
    assert not torch.equal(outputs[0], outputs[1])


def release_s(state):
    """Add the buffers of the release's checkpoint."""
    blocks = [name.removesuffix("logit_scale") for name in state if name.endswith("logit_scale")]
    for block in blocks:
        state[f"{block}relative_coords_table"] = torch.rand(1, 13, 13, 2)
        state[f"{block}relative_position_index"] = torch.arange(49 * 49).reshape(49, 49)
        state[f"{block.removesuffix('attn.')}attn_mask"] = torch.full((16, 49, 49), -100.0)
    return state


def test_file_of_the_release_loads(tmp_path):
    network = small()
    held = {"name": "jdec-older", "args": {"encoder_spec": {"name": "x"}}}
    held["sd"] = release_s(network.state_dict())
    torch.save({"model": held, "optimizer": {"name": "adam"}, "epoch": 3}, tmp_path / "jdec.pth")
    file = read_checkpoint(tmp_path / "jdec.pth")
    assert recognise(file.state).type == "JDEC"
    loaded = load_network(tmp_path / "jdec.pth")
    assert shapes(loaded) == shapes(network)
    x = input_for(network.facts, 40, 24)
    assert torch.equal(restore(loaded, x), restore(network, x))


def test_only_what_the_network_computes_is_ignored():
    network = small()
    network.load_state_dict(release_s(network.state_dict()))
    with pytest.raises(RuntimeError, match=r"Unexpected.*attn_bias"):
        network.load_state_dict({**network.state_dict(), "attn_bias": torch.zeros(1)})


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 3, 16, 24), "multiples of 16, not 16 x 24"),
        ((1, 3, 17, 16), "multiples of 16, not 17 x 16"),
        ((1, 3, 0, 16), "multiples of 16, not 0 x 16"),
        ((1, 1, 16, 16), "takes images of 3 channels, this one has 1"),
    ],
)
def test_what_are_no_planes_is_refused(shape, message):
    with pytest.raises(UserError, match=message):
        small()(torch.zeros(shape))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"depth": 0}, "depth: 0 blocks are too few; give 1 or more"),
        ({"depths": ()}, "depths and num_heads: "),
        ({"num_heads": 3}, "num_heads: 3 heads cannot share embed_dim"),
        ({"hidden": 0}, "hidden: leaves 0 channels"),
        ({"mlp_ratio": 0.01}, "mlp_ratio: leaves 0 channels"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(UserError, match=message):
        small(**arguments)
