"""Every shipped options file is sound: its keys, names and network; recipes are the paper's."""

import json
import os
import re
from itertools import accumulate
from pathlib import Path

import jsonschema
import msgspec
import pytest
import torch
import yaml
from basicsr.archs import build_network
from basicsr.archs.vgg_arch import NAMES
from basicsr.utils.options import ordered_yaml
from basicsr.utils.registry import DATASET_REGISTRY, METRIC_REGISTRY, MODEL_REGISTRY
from diffusion_tools import write_outline

import cir_arch  # noqa: F401
import cir_data  # noqa: F401
import cir_model  # noqa: F401
from cir_arch.running import facts_of
from cir_arch.ucip_arch import CODECS
from cir_cli.options_files import find, shipped
from cir_cli.options_reference import schema_text
from cir_data.draws import Mixture, WeightedDraw
from cir_host.errors import OptionsError
from cir_host.typed_options import typed
from cir_model.options import GroupOptions, ValOptions
from cir_model.restoring.tiling import Tiling
from cir_model.training.groups import freeze


@pytest.fixture(autouse=True, scope="module")
def files_of_codiff(tmp_path_factory):
    """What CODiff's options files name, in the current folder."""
    folder, before = tmp_path_factory.mktemp("codiff"), Path.cwd()
    write_outline(folder / "stable-diffusion-2-1-base", folder / "cave.pth")
    os.chdir(folder)
    yield
    os.chdir(before)


def load(name):
    """As a run reads it: 1e-4 is a number."""
    return yaml.load(find(name).read_text(encoding="utf-8"), Loader=ordered_yaml()[0])


def network_of(options):
    with torch.device("meta"):
        return build_network(options["network_g"])


@pytest.mark.parametrize("name", shipped())
def test_file_is_sound(name):
    options = load(name)
    assert MODEL_REGISTRY.get(options["model_type"])
    for phase, section in options["datasets"].items():
        data_set = DATASET_REGISTRY.get(section["type"])
        if not data_set.__module__.startswith("cir_data."):
            continue  # BasicSR's own state no options
        whole = {**section, "phase": phase.split("_")[0], "manual_seed": 0}
        whole["scale"] = options["scale"]
        typed(whole, data_set.options_type, f"datasets.{phase}")
    if "val" in options:
        val = typed(options["val"], ValOptions, "val")
        for metric in (val.metrics or {}).values():
            assert METRIC_REGISTRY.get(metric["type"])
    network = network_of(options)
    facts = facts_of(network)
    assert facts is not None
    assert facts.scale == options["scale"]
    if "periods" in options.get("train", {}).get("scheduler", {}):
        assert sum(options["train"]["scheduler"]["periods"]) == options["train"]["total_iter"]


@pytest.mark.parametrize("name", shipped())
def test_file_fulfils_the_schema_that_editors_read(name):
    """The one that its first line names, beside it."""
    text = find(name).read_text(encoding="utf-8")
    line = re.match(r"# yaml-language-server: \$schema=(\S+)\n", text)
    assert line, "the first line names no schema"
    schema = json.loads(shipped()[name].with_name(line[1]).read_text(encoding="utf-8"))
    validator = jsonschema.Draft202012Validator(schema)
    assert [error.message for error in validator.iter_errors(load(name))] == []


def test_shipped_schema_is_the_one_that_the_code_prints():
    schema = find("test_live1.yml").with_name("schema.json")
    assert schema.read_text(encoding="utf-8") == schema_text(), (
        "basicsr options --schema > options/schema.json"
    )


def test_index_lists_every_file_and_no_other():
    index = find("test_live1.yml").with_name("README.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| `(\w+\.yml)` \|", index, re.MULTILINE)
    assert sorted(listed) == sorted(shipped())


def test_recipe_of_the_paper():
    first, second = load("promptcir_x1.yml"), load("promptcir_x1_stage2.yml")
    for options in (first, second):
        train = options["datasets"]["train"]
        assert (train["gt_size"], train["batch_size_per_gpu"]) == (128, 24)
        assert train["use_hflip"]
        assert train["use_rot"]
        assert options["train"]["optim_g"]["type"] == "AdamW"
        assert options["train"]["scheduler"]["eta_min"] == 1e-6
        assert sum(p.numel() for p in network_of(options).parameters()) == 34_754_927
    assert first["datasets"]["train"]["quality"] == {"choices": [10, 20, 30, 40, 50, 60, 70]}
    assert second["datasets"]["train"]["quality"] == {"range": [10, 70]}
    assert first["train"]["optim_g"]["lr"] == 2e-4
    assert second["train"]["optim_g"]["lr"] == 1e-4
    assert first["train"]["total_iter"] == 800_000
    assert second["train"]["total_iter"] == 600_000
    start = second["path"]["pretrain_network_g"]
    assert start == "experiments/promptcir_x1/models/net_g_latest.pth"


@pytest.mark.parametrize(
    ("name", "parameters"), [("hat", 20_772_507), ("hat_s", 9_621_183), ("hat_l", 40_846_575)]
)
def test_protocol_of_super_resolution(name, parameters):
    """That of the HAT paper: Y, a border as wide as the scale."""
    options = load(f"test_{name}_x4.yml")
    assert sum(p.numel() for p in network_of(options).parameters()) == parameters
    for metric in options["val"]["metrics"].values():
        assert (metric["crop_border"], metric["test_y_channel"]) == (4, True)


def test_recipe_of_ucip():
    options = load("ucip_x4.yml")
    train = options["datasets"]["train"]
    assert train["codec_names"] == list(CODECS)
    assert [entry["name"] for entry in train["codecs"]] == list(CODECS)
    qualities = [e.get("qualities") or e["quality"]["choices"] for e in train["codecs"]]
    assert sum(map(len, qualities)) == 23
    assert (train["gt_size"], train["batch_size_per_gpu"], options["scale"]) == (256, 32, 4)
    assert options["train"]["total_iter"] == 400_000


# name: parameters, edge of the crops, total batch, learning rate, iterations
RECIPES = {
    "promptir_x1.yml": (36_543_885, 128, 24, 2e-4, 800_000),
    "promptir_x1_stage2.yml": (36_543_885, 128, 24, 1e-4, 600_000),
    "cave_x1.yml": (74_887_428, 256, 128, 2e-5, 200_000),
    "cave_x1_explicit.yml": (74_887_428, 256, 128, 2e-5, 200_000),
    "cave_x1_implicit.yml": (74_887_428, 256, 128, 2e-5, 200_000),
    "codiff_x1.yml": (995_529_947, 256, 32, 5e-5, 100_000),
    "binycn_x1.yml": (9_139_255, 288, 8, 1e-4, 175_000),
    "hft_x1.yml": (33_859_795, 64, 8, 2e-4, 350_000),
    "jdec_x1.yml": (38_912_035, 112, 16, 1e-4, 215_625),
    "oldfe666_x1.yml": (16_149_783, 126, 2, 2e-4, 300_000),
    "oldfe666_x1_phase2.yml": (16_149_783, 256, 1, 8e-5, 100_000),
    "scunet_x1.yml": (69_086_604, 128, 64, 1e-4, 900_000),
    "scunet_x1_phase2.yml": (69_086_604, 256, 32, 2e-5, 600_000),
    "tempest_x1.yml": (32_011_175, 96, 64, 2e-4, 300_000),
    "tempest_x1_phase2.yml": (32_011_175, 96, 64, 2e-4, 500_000),
    "unifyformer_x1.yml": (28_500_431, 128, 64, 3e-4, 300_000),
    "restormer_x1.yml": (26_126_644, 128, 64, 3e-4, 300_000),
    "fvl_t1_x1.yml": (28_078_645, 128, 32, 2e-4, 100_000),
    "fvl_t1_x1_phase2.yml": (28_078_645, 128, 64, 3e-4, 300_000),
    "safmn_bcie_x1.yml": (18_414_083, 192, 16, 3e-4, 500_000),
    "swin2sr_jpeg_x1.yml": (11_843_247, 126, 8, 2e-4, 800_000),
    "syu_hnvlab_x1.yml": (11_868_955, 192, 16, 1e-3, 300_000),
    "ucip_x4.yml": (11_424_291, 256, 32, 3e-4, 400_000),
    "ucip_x4_release.yml": (11_424_291, 256, 32, 2e-4, 300_000),
    "ucip_x4_promptless.yml": (11_424_291, 256, 32, 3e-4, 400_000),
    "diffir_x1_stage1.yml": (24_853_318, 256, 16, 2e-4, 1_000_000),
    "diffir_x1_stage2.yml": (25_023_046, 256, 16, 2e-4, 1_000_000),
    "image_phoenix_x1.yml": (25_023_046, 256, 16, 1e-4, 100_000),
    "image_phoenix_x1_phase3.yml": (25_023_046, 256, 16, 1e-4, 100_000),
    "hit_iil_x1.yml": (16_723_907, 128, 48, 2e-4, 1_000_000),
    "hit_iil_x1_gan.yml": (16_723_907, 128, 48, 1e-4, 400_000),
    "hit_iil_x1_phase3.yml": (26_126_644, 128, 48, 1e-4, 400_000),
    "xhs_iag_x1.yml": (15_256_299, 128, 12, 1e-4, 92_000),
    "xhs_iag_x1_stage2.yml": (15_256_299, 128, 12, 5e-5, 140_000),
    "promptcir_x1_gan.yml": (34_754_927, 128, 12, 5e-5, 140_000),
}


@pytest.mark.parametrize("name", RECIPES)
def test_figures_of_the_recipes(name):
    options = load(name)
    train, data = options["train"], options["datasets"]["train"]
    found = (
        sum(p.numel() for p in network_of(options).parameters()),
        data["gt_size"],
        data["batch_size_per_gpu"],
        train["optim_g"]["lr"],
        train["total_iter"],
    )
    assert found == RECIPES[name]


def test_later_phases_begin_at_earlier_ones():
    """Under the name by which the earlier file saves."""
    for name in shipped():
        start = (load(name)["path"].get("pretrain_network_g") or "").split("/")
        if "train" in load(name) and start[2:3] == ["models"]:
            assert f"{start[1]}.yml" in shipped(), name
            earlier, later = (load(file)["network_g"] for file in (f"{start[1]}.yml", name))
            later.pop("freeze_predictor", None)  # the same network, whose predictor is trained
            if load(name)["path"].get("strict_load_g") is False:  # stages of DiffIR share a part
                del earlier["stage"], later["stage"]
            assert later == earlier, name


@pytest.mark.parametrize("stage", ["", "_stage2"])
def test_eight_gpus_take_the_batch_of_one(stage):
    one, eight = load(f"promptcir_x1{stage}.yml"), load(f"promptcir_x1{stage}_8gpu.yml")
    data = [options["datasets"]["train"] for options in (one, eight)]
    assert data[0].pop("batch_size_per_gpu") == 8 * data[1].pop("batch_size_per_gpu")
    for key in ("train", "datasets", "network_g", "val"):
        assert one[key] == eight[key]


def test_dual_learning_and_its_parts():
    dual, explicit, implicit = (
        load(f"cave_x1{kind}.yml") for kind in ("", "_explicit", "_implicit")
    )
    assert dual["train"]["pixel_opt"]["loss_weight"] == 1000
    assert dual["train"]["quality_opt"]["loss_weight"] == 1
    for alone, other in ((explicit, "pixel_opt"), (implicit, "quality_opt")):
        assert alone["train"] == {
            **{k: v for k, v in dual["train"].items() if k != other},
            "groups": alone["train"]["groups"],
        }
    seen = Mixture.of(
        msgspec.convert(dual["datasets"]["train"]["quality"], list[WeightedDraw[int]])
    ).values
    for name, section in dual["datasets"].items():
        if name != "train":
            ending = "seen" if section["quality"] in seen else "unseen"
            assert section["name"] == f"DIV2K_valid_q{section['quality']}_{ending}"


@pytest.mark.parametrize(
    ("name", "trained"),
    [
        ("ucip_x4_webp.yml", "prompts"),
        ("ucip_x4_webp_added.yml", "prompts"),
        ("fvl_t1_x1.yml", "qf_pred"),
        ("cave_x1_explicit.yml", "m_head m_down1 m_down2 m_down3 m_body_encoder qf_pred"),
        (
            "cave_x1_implicit.yml",
            "m_head m_down1 m_down2 m_down3 m_body_encoder m_body_decoder m_up3 m_up2 m_up1 m_tail",
        ),
    ],
)
def test_patterns_freeze_what_they_should(name, trained):
    options = load(name)
    network = network_of(options)
    freeze(network, msgspec.convert(options["train"]["groups"], list[GroupOptions]))
    left = {n.split(".")[0] for n, p in network.named_parameters() if p.requires_grad}
    assert left == set(trained.split())


def test_schedule_of_tempest():
    """300k iterations at one rate; then a fifth of it every 100k. Ten qualities from 10 to 70."""
    first, second = load("tempest_x1.yml"), load("tempest_x1_phase2.yml")
    assert first["train"]["scheduler"]["gamma"] == 1
    later = second["train"]["scheduler"]
    assert later["milestones"] == [100_000, 200_000, 300_000, 400_000]
    assert later["gamma"] == 1 / 5
    for options in (first, second):
        qualities = options["datasets"]["train"]["quality"]["choices"]
        assert len(set(qualities)) == 10
        assert (min(qualities), max(qualities)) == (10, 70)
        assert options["train"]["pixel_opt"]["type"] == "MSELoss"
        assert options["train"]["quality_opt"]["loss_weight"] == 0.001


def test_progressive_schedule_of_unifyformer():
    stages = load("unifyformer_x1.yml")["train"]["progressive"]
    ends = list(accumulate(stage["iters"] for stage in stages))
    assert ends == [100_000, 170_000, 220_000, 260_000, 300_000]
    sizes = [(stage["gt_size"], stage["batch_size_per_gpu"]) for stage in stages]
    assert sizes == [(128, 64), (128, 48), (160, 32), (192, 16), (224, 16)]


def test_progressive_schedule_of_restormer():
    for name in ("restormer_x1.yml", "fvl_t1_x1_phase2.yml"):
        stages = load(name)["train"]["progressive"]
        ends = list(accumulate(stage["iters"] for stage in stages))
        assert ends == [92_000, 156_000, 204_000, 240_000, 276_000, 300_000]
        sizes = [(stage["gt_size"], stage["batch_size_per_gpu"]) for stage in stages]
        assert sizes == [(128, 64), (160, 40), (192, 32), (256, 16), (320, 8), (384, 8)]


def test_fvl_t1_differs_from_restormer_by_its_predictor():
    """Trained alone first, then fixed; the team's report states nothing else."""
    base, first, second = (
        load(name) for name in ("restormer_x1.yml", "fvl_t1_x1.yml", "fvl_t1_x1_phase2.yml")
    )
    assert second["train"] == base["train"]
    assert second["datasets"] == base["datasets"]
    fixed = {n for n, p in network_of(second).named_parameters() if not p.requires_grad}
    assert fixed == {n for n, _ in network_of(first).named_parameters() if n.startswith("qf_pred.")}
    assert "pixel_opt" not in first["train"]


def test_a_path_wins_over_a_shipped_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find("test_live1.yml") == shipped()["test_live1.yml"]
    assert find("options/test_live1.yml") == shipped()["test_live1.yml"]
    (tmp_path / "test_live1.yml").write_text("name: mine\n")
    assert find("test_live1.yml").read_text() == "name: mine\n"
    with pytest.raises(OptionsError, match=r"elsewhere/test_live1\.yml"):
        find("elsewhere/test_live1.yml")


def test_entry_of_the_challenge():
    """Two checkpoints on image and transpose, tiles of 384 with 96 overlap, their script's rule."""
    entry, blended = load("test_ntire2024.yml"), load("test_ntire2024_blended.yml")
    for options in (entry, blended):
        val = options["val"]
        assert (val["tile"], val["overlap"], val["self_ensemble"]) == (384, 96, "transpose")
        assert len(val["averaged_with"]) == 1
        assert val["averaged_with"][0] != options["path"]["pretrain_network_g"]
    assert entry["val"].pop("tiling") == "ntire2024"
    assert entry["val"] == blended["val"]


def test_three_tile_sizes_of_oldfe666():
    """Rounding the sizes up to ART's grid changes none."""
    options = load("test_oldfe666.yml")
    val = typed(options["val"], ValOptions, "val")
    assert (val.tile, val.overlap, val.self_ensemble) == ((288, 320, 352), 32, "x8")
    facts = [network_of(options).facts]
    tilings = [Tiling.fitting(tile, val.overlap, facts) for tile in val.tile]
    assert [(t.tile, t.overlap) for t in tilings] == [(288, 32), (320, 32), (352, 32)]


def test_average_of_hit_iil():
    """Two networks, each by its own recipe; the report's weights in the order of its words."""
    options = load("test_hit_iil.yml")
    val = typed(options["val"], ValOptions, "val")
    assert val.averaging_weights == (0.8, 0.2)
    (other,) = val.averaged_with
    files = options["path"]["pretrain_network_g"], other.path
    for file, section in zip(files, (options["network_g"], other.network), strict=True):
        recipe = load(f"{file.split('/')[1]}.yml")
        assert recipe["network_g"] == section
        assert recipe["train"]["losses"]["lpips"]["type"] == "LPIPSLoss"
        gan = recipe["train"]["gan_opt"]
        assert (gan["gan_type"], gan["loss_weight"]) == ("vanilla", 0.1)


def test_second_stage_of_xhs_iag():
    """The printed layers of VGG19 and weights; the indices are those of torchvision's network."""
    train = load("xhs_iag_x1_stage2.yml")["train"]
    printed = {2: 0.1, 7: 0.1, 16: 1.0, 25: 1.0, 34: 1.0}
    layers = train["perceptual_opt"]["layer_weights"]
    assert {NAMES["vgg19"].index(name): value for name, value in layers.items()} == printed
    assert train["perceptual_opt"]["perceptual_weight"] == 1
    assert train["pixel_opt"]["loss_weight"] == 1
    assert (train["gan_opt"]["gan_type"], train["gan_opt"]["loss_weight"]) == ("vanilla", 0.05)
    data = load("xhs_iag_x1_stage2.yml")["datasets"]["train"]
    assert data["type"] == "PairedJPEGDataset"
