"""Options files of other repositories: HAT's run, others are told what to write."""

import json

import pytest
import yaml
from command_tools import basicsr, one_line_error, write_options
from host_tools import paired, test_options, train_options, write_pairs

import cir_model  # noqa: F401 (registers CIRModel)
from cir_host.errors import OptionsError
from cir_host.hat_options import translate

HAT = """
name: HAT_SRx4
model_type: HATModel
scale: 1
num_gpu: 0
manual_seed: 0
tile: # use the tile mode for limited GPU memory when testing.
  tile_size: 16
  tile_pad: 8
network_g:
  type: HAT
  upscale: 1
  in_chans: 3
  img_size: 64
  window_size: 4
  compress_ratio: 2
  squeeze_factor: 4
  conv_scale: 0.01
  overlap_ratio: 0.5
  img_range: 1.
  depths: [1]
  embed_dim: 12
  num_heads: [2]
  mlp_ratio: 2
  upsampler: 'pixelshuffle'
  resi_connection: '1conv'
path:
  pretrain_network_g: experiments/HAT_SRx4/models/net_g_latest.pth
  param_key_g: 'params_ema'
  strict_load_g: true
val:
  save_img: true
  suffix: ~
  metrics:
    psnr: {type: calculate_psnr, crop_border: 0, test_y_channel: true}
"""
"""As HAT's own test files are, but small."""


def hat_options(folder, train):
    options = yaml.safe_load(HAT)
    if not train:
        return {**options, "datasets": {"test_1": paired(folder, "val")}}
    ours = train_options(folder)
    del ours["datasets"]["val"]["name"]
    options["datasets"] = {
        "train": {**ours["datasets"]["train"], "use_shuffle": True, "prefetch_mode": None},
        "val_1": {"name": "Set5", **ours["datasets"]["val"]},
    }
    options["path"] = {"pretrain_network_g": None, "strict_load_g": True, "resume_state": None}
    scheduler = {"type": "MultiStepLR", "milestones": [1], "gamma": 0.5}
    options["train"] = {**ours["train"], "total_iter": 2, "scheduler": scheduler}
    options["val"] = {**options["val"], "val_freq": 2, "save_img": False, "pbar": False}
    options["logger"] = {**ours["logger"], "wandb": {"project": None, "resume_id": None}}
    options["dist_params"] = {"backend": "nccl", "port": 29500}
    del options["val"]["suffix"]
    return options


def test_files_of_hat_train_and_test_with_their_tiles(tmp_path):
    write_pairs(tmp_path, size=(37, 50))
    for command in ("train", "test"):
        options = hat_options(tmp_path, command == "train")
        file = write_options(tmp_path / f"{command}.yml", options)
        done = basicsr(tmp_path, command, "-opt", file)
        assert done.returncode == 0, done.stderr
        warnings = [line for line in done.stderr.splitlines() if line.startswith("warning: ")]
        assert warnings == [
            "warning: model_type: HATModel is run as CIRModel, which pads images as HAT's own does;"
            " its section tile as val.tile: 32 and overlap: 16"
        ]
        root = "experiments" if command == "train" else "results"
        results = json.loads((tmp_path / root / "HAT_SRx4/metrics.json").read_text())
        (data_set,) = results["data_sets"].values()
        assert data_set["protocol"]["inference"].startswith("tiles of 32 px, stride 16 ")


def test_what_is_translated():
    options = {"model_type": "HATModel", "tile": {"tile_size": 512, "tile_pad": 32}, "val": {}}
    translate(options)
    assert options == {"model_type": "CIRModel", "val": {"tile": 576, "overlap": 64}}
    options = {"model_type": "HATModel", "tile": {"tile_size": 512, "tile_pad": 32}}
    translate(options)
    assert options == {"model_type": "CIRModel"}
    options = {"model_type": "SRModel", "tile": 3}
    assert translate(options) == []
    assert options == {"model_type": "SRModel", "tile": 3}


@pytest.mark.parametrize(
    ("tile", "words"), [({"tile_size": 0, "tile_pad": 3}, "tile.tile_size: "), (5, "tile: ")]
)
def test_a_section_tile_that_is_none_is_named(tile, words):
    with pytest.raises(OptionsError, match=rf"^{words}"):
        translate({"model_type": "HATModel", "tile": tile, "val": {}})


def test_hat_s_own_package_keeps_its_name(monkeypatch):
    from basicsr.utils.registry import MODEL_REGISTRY

    monkeypatch.setitem(MODEL_REGISTRY._obj_map, "HATModel", object)
    assert translate({"model_type": "HATModel", "tile": 3}) == []


@pytest.mark.parametrize(
    ("key", "name", "instead"),
    [
        ("model_type", "RealHATGANModel", "HAT's own; write RealESRGANModel"),
        ("model_type", "RealHATMSEModel", "HAT's own; write RealESRNetModel"),
        ("model_type", "ImageCleanModel", "Restormer's own; write CIRModel, with train.grad_clip"),
        ("model_type", "ImageRestorationModel", "NAFNet's own; write CIRModel"),
        ("model_type", "DATModel", "DAT's own; write CIRModel, with val.tile: auto"),
        ("datasets", "ImageNetPairedDataset", "HAT's own.* write PairedImageDataset"),
        ("datasets", "Dataset_PairedImage", "Restormer's own; write PairedImageDataset"),
    ],
)
def test_others_are_told_what_to_write(tmp_path, monkeypatch, key, name, instead):
    from basicsr.train import parse_options

    options = test_options(tmp_path, "net.pth")
    if key == "model_type":
        options[key] = name
    else:
        options["datasets"]["test_1"]["type"] = name
        key = "datasets.test_1.type"
    file = tmp_path / write_options(tmp_path / "a.yml", options)
    monkeypatch.setattr("sys.argv", ["basicsr", "-opt", str(file)])
    with pytest.raises(OptionsError, match=rf"^{key}: {name} is {instead}"):
        parse_options(str(tmp_path), is_train=False)


def test_what_they_are_told_is_one_line_of_the_command(tmp_path):
    options = {**hat_options(tmp_path, train=False), "model_type": "RealHATGANModel"}
    line = one_line_error(basicsr(tmp_path, "test", "-opt", write_options(tmp_path / "a", options)))
    assert "write RealESRGANModel" in line
