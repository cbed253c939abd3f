"""Every shipped options file is sound: its keys, names and network; recipes are the paper's."""

import pytest
import torch
import yaml
from basicsr.archs import build_network
from basicsr.utils.registry import DATASET_REGISTRY, METRIC_REGISTRY, MODEL_REGISTRY

import cir_arch  # noqa: F401
import cir_data  # noqa: F401
import cir_model  # noqa: F401
from cir_arch.ucip_arch import CODECS
from cir_cli.options_files import find, shipped
from cir_host.errors import OptionsError
from cir_host.options import convert
from cir_model.options import ValOptions


def load(name):
    with find(name).open(encoding="utf-8") as file:
        return yaml.safe_load(file)


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
        convert(whole, data_set.options_type, f"datasets.{phase}")
    if "val" in options:
        val = convert(options["val"], ValOptions, "val")
        for metric in (val.metrics or {}).values():
            assert METRIC_REGISTRY.get(metric["type"])
    with torch.device("meta"):
        network = build_network(options["network_g"])
    assert network.facts.scale == options["scale"]
    if "periods" in options.get("train", {}).get("scheduler", {}):
        assert sum(options["train"]["scheduler"]["periods"]) == options["train"]["total_iter"]


def test_recipe_of_the_paper():
    first, second = load("promptcir_x1.yml"), load("promptcir_x1_stage2.yml")
    for options in (first, second):
        train = options["datasets"]["train"]
        assert (train["gt_size"], train["batch_size_per_gpu"]) == (128, 24)
        assert train["use_hflip"]
        assert train["use_rot"]
        assert options["train"]["optim_g"]["type"] == "AdamW"
        assert float(options["train"]["scheduler"]["eta_min"]) == 1e-6
        with torch.device("meta"):
            network = build_network(options["network_g"])
        assert sum(p.numel() for p in network.parameters()) == 34_754_927
    assert first["datasets"]["train"]["quality"] == {"choices": [10, 20, 30, 40, 50, 60, 70]}
    assert second["datasets"]["train"]["quality"] == {"range": [10, 70]}
    assert float(first["train"]["optim_g"]["lr"]) == 2e-4
    assert float(second["train"]["optim_g"]["lr"]) == 1e-4
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
    with torch.device("meta"):
        network = build_network(options["network_g"])
    assert sum(p.numel() for p in network.parameters()) == parameters
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
