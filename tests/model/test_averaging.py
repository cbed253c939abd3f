"""Weighted averages of networks, and averages of several tile sizes."""

import math
from dataclasses import replace

import pytest
import torch
from basicsr.archs import build_network
from command_tools import TINY_PROMPTCIR, train_options
from small_networks import SMALL
from torch import nn
from vector_tools import filled

from cir_arch import Identity
from cir_host.errors import OptionsError, UserError
from cir_host.typed_options import typed
from cir_model import CIRModel
from cir_model.measuring.provenance import facts_of_run
from cir_model.options import ValOptions
from cir_model.restoring.inference import Restorer, restore_tensor
from cir_model.restoring.settings import InferenceOptions
from cir_model.restoring.tiling import Tiling


class Plain(nn.Module):
    """A network with facts whose output a test gives; counts its passes."""

    def __init__(self, output, multiple=1, scale=1, halo=0):
        super().__init__()
        self.output = output
        self.passes = 0
        self.facts = replace(Identity().facts, size_multiple=multiple, scale=scale, halo=halo)

    def forward(self, x):
        self.passes += 1
        return self.output(x)


def adds(value, **facts):
    return Plain(lambda x: x + value, **facts)


def whole_seen():
    """Multiplies by the mean of what it sees, so that every tile size gives another image."""
    return Plain(lambda x: x * x.mean((1, 2, 3), keepdim=True), halo=None)


def picture(*size, seed=0):
    return torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("ensemble", ["none", "x8"])
@pytest.mark.parametrize("weights", [(0.8, 0.2), (4, 1)])
def test_outputs_count_by_the_weight_of_their_network(ensemble, weights):
    image = picture(20, 30)
    restorer = Restorer(
        [adds(1), adds(10)], InferenceOptions(self_ensemble=ensemble), weights=weights
    )
    torch.testing.assert_close(restorer(image), image + 0.8 + 2)
    assert restorer.describe()["networks averaged"] == "2, weights 0.8, 0.2"


def test_the_larger_weight_may_come_last():
    image = picture(20, 30)
    restorer = Restorer([adds(1), adds(10), adds(100)], InferenceOptions(), weights=(0.1, 0.2, 0.7))
    torch.testing.assert_close(restorer(image), image + 0.1 + 2 + 70)


@pytest.mark.parametrize("ensemble", ["none", "flips"])
@pytest.mark.parametrize("weights", [(0.1, 0.1, 0.1), (1 / 3, 1 / 3, 1 / 3), (7, 7, 7)])
def test_equal_weights_are_the_plain_mean_to_the_bit(ensemble, weights):
    image = picture(20, 30)
    networks = [Plain(torch.sin), Plain(torch.cos), Plain(torch.exp)]
    options = InferenceOptions(self_ensemble=ensemble)
    weighted = Restorer(networks, options, weights=weights)
    plain = Restorer(networks, options)
    assert torch.equal(weighted(image), plain(image))
    if ensemble == "none":
        written_out = (image.sin() + image.cos() + image.exp()) / 3
        assert torch.equal(plain(image), written_out)
    assert weighted.describe()["networks averaged"] == "3"


def test_weights_of_one_and_zero_are_the_first_network_alone():
    """Also its tiles, which those of the other would change."""
    image = picture(90, 70)
    first, other = whole_seen(), Plain(lambda x: x / 0, multiple=112, scale=4)
    options = InferenceOptions(tile=32, overlap=16)
    restorer = Restorer([first, other], options, weights=(1, 0))
    assert torch.equal(restorer(image), Restorer([first], options)(image))
    assert other.passes == 0
    assert "networks averaged" not in restorer.describe()
    last = Restorer([other, first], options, ["x.pth", "y.pth"], (0, 3))
    assert torch.equal(last(image), Restorer([first], options)(image))
    assert last.names == ["y.pth"]


WRONG = [
    ([1], "1 given for 2 networks; give one for each"),
    ([1, 1, 1], "3 given for 2 networks; give one for each"),
    ([], "0 given for 2 networks; give one for each"),
    ([1, math.inf], "inf is not a weight; give a number from 0"),
    ([0, 0], "all are 0; give one network a positive weight"),
]


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        *WRONG,
        ([1, -0.5], "-0.5 is not a weight; give a number from 0"),
        ([1, math.nan], "nan is not a weight; give a number from 0"),
    ],
)
def test_weights_that_cannot_be_used(weights, message):
    with pytest.raises(UserError) as caught:
        Restorer([adds(0), adds(1)], InferenceOptions(), weights=weights)
    assert str(caught.value) == f"weights: {message}"


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        *((weights, f"val: averaging_weights: {message}") for weights, message in WRONG),
        ([1, -0.5], "val.averaging_weights[1]: expected float >= 0.0; it is -0.5"),
        ([1, math.nan], "val.averaging_weights[1]: expected float >= 0.0; it is nan"),
        ([1, "b"], "val.averaging_weights[1]: expected float, got str; it is 'b'"),
    ],
)
def test_weights_that_an_options_file_cannot_have(weights, message):
    section = {"save_img": False, "averaged_with": ["b.pth"], "averaging_weights": weights}
    with pytest.raises(OptionsError) as caught:
        typed(section, ValOptions, "val")
    assert str(caught.value) == message


def test_further_networks_of_a_test_and_their_weights(tmp_path, monkeypatch):
    """A path is of network_g; other networks are stated, or recognised from the file."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    sections = {
        "a": TINY_PROMPTCIR,
        "b": TINY_PROMPTCIR,
        "c": {"type": "SRVGGNetCompact", "num_feat": 4, "num_conv": 1, "upscale": 1},
        "d": {"type": "FBCNN", **SMALL["FBCNN"]},
    }
    networks = {}
    for name, section in sections.items():
        networks[name] = build_network(dict(section)).eval()
        torch.save({"params": networks[name].state_dict()}, f"{name}.pth")
    further = ["b.pth", {"path": "c.pth", "network": sections["c"]}, {"path": "d.pth"}]
    opt = train_options(path__pretrain_network_g="a.pth")
    opt |= {"is_train": False, "dist": False, "rank": 0, "world_size": 1}
    opt["val"] = {"save_img": False, "averaged_with": further}
    opt["val"]["averaging_weights"] = [4, 3, 2, 1]
    made = CIRModel(opt)
    made.lq = picture(32, 32)
    made.test()
    with torch.no_grad():
        outputs = [network(made.lq) for network in networks.values()]
    expected = sum(w * output for w, output in zip((0.4, 0.3, 0.2, 0.1), outputs, strict=True))
    torch.testing.assert_close(made.output, expected, rtol=0, atol=1e-6)
    averaged = made.restorer.describe()["networks averaged"]
    assert averaged == "4, weights 0.4, 0.3, 0.2, 0.1"


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"path": "b.pth", "network": {"dim": 8}}, "val.averaged_with[0]: network.type missing"),
        ({"network": {"type": "HAT"}}, "val.averaged_with[0].path: missing"),
        ({"path": "b.pth", "wieght": 2}, "val.averaged_with[0].wieght: unknown key"),
    ],
)
def test_further_networks_that_cannot_be_used(entry, message):
    with pytest.raises(OptionsError) as caught:
        typed({"save_img": False, "averaged_with": [entry]}, ValOptions, "val")
    assert str(caught.value) == message


@pytest.mark.parametrize("tiling", ["blended", "ntire2024"])
@pytest.mark.parametrize("ensemble", ["none", "x8"])
def test_several_tile_sizes_are_the_mean_of_single_runs(tiling, ensemble):
    image = picture(130, 81)
    how = {"overlap": 16, "tiling": tiling, "self_ensemble": ensemble}
    single = [restore_tensor(whole_seen(), image, tile=tile, **how) for tile in (32, 48, 64)]
    for first, second in ((0, 1), (0, 2), (1, 2)):
        assert not torch.allclose(single[first], single[second], atol=1e-3)
    together = restore_tensor(whole_seen(), image, tile=(32, 48, 64), **how)
    torch.testing.assert_close(together, torch.stack(single).mean(0), rtol=0, atol=1e-6)
    listed = restore_tensor(whole_seen(), image, tile=[32, 48, 64], **how)
    assert torch.equal(listed, together)


def test_several_tile_sizes_of_weighted_networks():
    image = picture(130, 81)
    networks = [whole_seen(), Plain(lambda x: x - x.amax((1, 2, 3), keepdim=True), halo=None)]
    expected = sum(
        weight / 2 * restore_tensor(network, image, tile=tile, overlap=16)
        for network, weight in zip(networks, (0.8, 0.2), strict=True)
        for tile in (32, 64)
    )
    options = InferenceOptions(tile=(32, 64), overlap=16)
    restored = Restorer(networks, options, weights=(0.8, 0.2))(image)
    torch.testing.assert_close(restored, expected, rtol=0, atol=1e-6)


def test_the_block_grid_is_extended_once_for_all_tile_sizes():
    image = picture(130, 81)
    offset = (3, 5)
    single = [
        Restorer([whole_seen()], InferenceOptions(tile=tile, overlap=16))(image, offset)
        for tile in (32, 64)
    ]
    restorer = Restorer([whole_seen()], InferenceOptions(tile=(32, 64), overlap=16))
    restored = restorer(image, offset)
    torch.testing.assert_close(restored, torch.stack(single).mean(0), rtol=0, atol=1e-6)
    assert not torch.allclose(restored, restorer(image, None), atol=1e-3)
    assert restorer.describe()["block grid"] == "not at the corner in 1 images, moved there"


def test_an_image_that_fits_into_all_tiles_passes_once():
    """Three equal results have this one as their mean; their rounded sum may be a bit off."""
    image = picture(30, 40)
    network = Plain(torch.sin)
    restorer = Restorer([network], InferenceOptions(tile=(48, 64, 80)))
    assert torch.equal(restorer(image), image.sin())
    assert network.passes == 1
    assert restorer.describe()["inference"] == "whole images"
    plain_sum = (image.sin() + image.sin() + image.sin()) / 3
    torch.testing.assert_close(restorer(image), plain_sum, rtol=2**-23, atol=0)


def test_an_image_that_fits_into_some_tiles_counts_for_each_of_them():
    image = picture(30, 60)
    network = whole_seen()
    restorer = Restorer([network], InferenceOptions(tile=(48, 64, 80), overlap=16))
    tiled, whole = restore_tensor(network, image, tile=48, overlap=16), network(image)
    network.passes = 0
    torch.testing.assert_close(restorer(image), (tiled + 2 * whole) / 3, rtol=0, atol=1e-6)
    assert network.passes == 3  # two tiles and the whole image
    inference = restorer.describe()["inference"]
    assert inference.startswith("mean of tiles of 48 px, stride 32 (multiples of 16), blended over")
    assert inference.endswith(" px; 2 x whole images")


def test_out_of_memory_limits_all_tile_sizes():
    """Those that become equal pass once."""

    def runs_out(x):
        if max(x.shape[-2:]) > 64:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried ...")
        return x

    image = picture(90, 300)
    network = Plain(runs_out)
    restorer = Restorer([network], InferenceOptions(tile=(32, 96, 128), overlap=16))
    assert torch.allclose(restorer(image), image)
    plan = {tiling.tile: count for tiling, count in restorer.plan(90, 300).items()}
    assert plan == {32: 1, 64: 2}
    assert "tiles of 32 px" in restorer.describe()["inference"]
    assert "2 x tiles of 64 px" in restorer.describe()["inference"]
    restorer = Restorer([network], InferenceOptions(tile=(96, 128), overlap=16))
    restorer(image)
    assert restorer.plan(90, 300) == {Tiling.fitting(64, 16, [network.facts]): 1}
    network.passes = 0
    assert torch.equal(restorer(image), image)
    assert network.passes == 12  # two rows of six tiles


def test_quality_is_predicted_for_each_tile_size():
    """As in runs with one size: in the middle tile of this size."""
    torch.manual_seed(0)
    network = filled(build_network({"type": "FBCNN", **SMALL["FBCNN"]}).eval())
    image = torch.cat((torch.full((1, 3, 48, 56), 0.5), picture(48, 56)), dim=-1)
    single = [restore_tensor(network, image, tile=tile, overlap=16) for tile in (32, 64)]
    together = restore_tensor(network, image, tile=(32, 64), overlap=16)
    torch.testing.assert_close(together, torch.stack(single).mean(0), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("tile", "message"),
    [
        ([288, "auto"], "val.tile[1]: expected int, got str; it is 'auto'"),
        ([0, 288], "val.tile[0]: expected int >= 1; it is 0"),
        ([], "val.tile: expected auto or an integer from 0; it is []"),
    ],
)
def test_tile_sizes_that_cannot_stand_in_a_list(tile, message):
    with pytest.raises(OptionsError) as caught:
        typed({"tile": tile}, InferenceOptions, "val")
    assert str(caught.value) == message


def test_tile_sizes_of_an_options_file():
    assert typed({"tile": [288, 320]}, InferenceOptions, "val").tile == (288, 320)


def test_facts_of_results_name_all_tile_sizes(tmp_path):
    path = tmp_path / "a.pth"
    path.write_bytes(b"weights")
    restorer = Restorer([adds(0)], InferenceOptions(tile=(288, 320)))
    assert facts_of_run(path, restorer).tile == "288, 320"
