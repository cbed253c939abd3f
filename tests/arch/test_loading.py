"""Training from what other networks have learned, by ``strict_load_g: false``."""

import math

import pytest
import torch
from basicsr.archs import build_network
from host_tools import basicsr_log, run_here, test_options, train_options, write_pairs
from PIL import Image
from small_networks import SMALL
from vector_tools import published_shapes

import cir_model  # noqa: F401 (registers CIRModel)
from cir_host.errors import UserError
from cir_host.loading import load_into


def load_published(source, network):
    """Load a published state dict into a network of full size, both without memory."""
    state = {k: torch.empty(v, device="meta") for k, v in published_shapes(source)[0].items()}
    with torch.device("meta"):
        net = build_network(network)
    with basicsr_log():
        return load_into(net, state, False, "net.pth")


def test_super_resolution_starts_a_restorer_of_the_same_groups():
    report = load_published("hat_x4", {"type": "HAT", "upscale": 1})
    assert report.complete
    assert report.parameters == 20_477_083
    assert {name.partition(".")[0] for name in report.unexpected} == {"upsample"}


def test_six_groups_start_six_of_ten():
    report = load_published("hat_x4", {"type": "HFT"})
    assert report.parameters == 20_477_083
    assert {name[: len("layers.6.")] for name in report.missing} == {
        f"layers.{i}." for i in range(6, 10)
    }
    assert not report.mismatching


def test_promptir_starts_what_it_shares_with_promptcir():
    report = load_published("promptir", {"type": "PromptCIR"})
    shared = {name.partition(".")[0] for name in report.loaded}
    assert shared >= {"encoder_level3", "latent", "decoder_level3", "refinement", "output"}
    assert "encoder_level1" not in shared
    theirs, ours = (published_shapes(name)[0] for name in ("promptir", "promptcir"))
    same = theirs.items() & ours.items()
    assert len(same) == len(report.loaded)
    assert report.parameters == sum(math.prod(shape) for _, shape in same) == 30_985_552


HAT = {"type": "HAT", **SMALL["HAT"]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Pairs of images, and weights of a HAT for scale 4 and of a CaVE."""
    folder = tmp_path_factory.mktemp("pairs")
    write_pairs(folder)
    for name, section in (("hat", {**HAT, "upscale": 4}), ("cave", {"type": "CaVE", "nb": 1})):
        section = {**section, "nc": (4, 4, 4, 4)} if name == "cave" else section
        torch.manual_seed(1)
        torch.save(build_network(section).state_dict(), folder / f"{name}.pth")
    return folder


def training(folder, weights, model_type="CIRModel"):
    options = train_options(folder)
    options.update(model_type=model_type, network_g=dict(HAT))
    options["train"]["total_iter"] = 1
    options["train"]["optim_g"]["lr"] = 1e-9  # the saved weights are those that were loaded
    options["path"].update(pretrain_network_g=str(folder / weights), strict_load_g=False)
    options["logger"]["save_checkpoint_freq"] = 1
    options["val"]["val_freq"] = 100
    return options


@pytest.mark.parametrize("model_type", ["CIRModel", "SRModel"])
def test_a_run_starts_from_what_fits(folder, tmp_path, monkeypatch, model_type):
    options = training(folder, "hat.pth", model_type)
    with basicsr_log() as log:
        run_here(monkeypatch, tmp_path, options)
    lines = [line for line in log if "loaded from" in line]
    assert len(lines) == 2  # the network and its average
    assert "parameters) fit, 4 unexpected (upsample.0.weight, " in lines[0]
    source = torch.load(folder / "hat.pth")
    saved = torch.load(tmp_path / "experiments/tiny/models/net_g_1.pth")
    for key in ("params", "params_ema"):
        name = "layers.0.residual_group.blocks.0.attn.qkv.weight"
        torch.testing.assert_close(saved[key][name], source[name])


def test_a_run_from_which_nothing_fits_does_not_start(folder, tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"cave\.pth: nothing in it fits HAT.* It looks like CaVE"):
        run_here(monkeypatch, tmp_path, training(folder, "cave.pth"))
    assert not (tmp_path / "experiments").exists()


@pytest.mark.parametrize(
    "network",
    [
        {
            "type": "SwinIR",
            "img_size": 14,
            "window_size": 7,
            "embed_dim": 8,
            "depths": [2],
            "num_heads": [2],
            "upscale": 1,
            "img_range": 255.0,
        },
        {"type": "RRDBNet", "num_in_ch": 3, "num_out_ch": 3, "scale": 1, "num_block": 1},
    ],
    ids=["SwinIR", "RRDBNet"],
)
def test_basicsr_s_networks_are_tested_at_sizes_that_they_do_not_take(
    tmp_path, monkeypatch, network
):
    write_pairs(tmp_path, train=1, val=1, size=(23, 34))
    torch.save({"params_ema": build_network(network).state_dict()}, tmp_path / "net.pth")
    options = test_options(tmp_path, tmp_path / "net.pth")
    options.update(model_type="CIRModel", network_g=dict(network))
    run_here(monkeypatch, tmp_path, options, command="test")
    with Image.open(*(tmp_path / "results").rglob("*.png")) as restored:
        assert restored.size == (34, 23)
