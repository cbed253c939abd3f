"""Sections of our data sets through BasicSR's own parser."""

import sys
from pathlib import Path

import cir_data  # noqa: F401 (makes BasicSR importable)

# isort: split
from basicsr.data import build_dataset
from basicsr.utils.options import parse_options
from data_tools import write_folder

OPTIONS = """
name: lists
model_type: SRModel
scale: 1
num_gpu: 0
manual_seed: 3
datasets:
  train:
    name: two folders
    type: JPEGRestorationDataset
    dataroot_gt: [~/one, two]
    quality: {range: [10, 70]}
    gt_size: 16
    num_worker_per_gpu: 0
    batch_size_per_gpu: 2
  val:
    name: one folder
    type: JPEGRestorationDataset
    dataroot_gt: two
    quality: 10
network_g: {type: SRVGGNetCompact, num_feat: 4, num_conv: 1, upscale: 1}
path: {pretrain_network_g: ~}
train:
  optim_g: {type: Adam, lr: 1e-3}
  scheduler: {type: CosineAnnealingRestartLR, periods: [2], restart_weights: [1], eta_min: 1e-7}
  total_iter: 2
val: {val_freq: 2, save_img: false}
logger: {print_freq: 1, save_checkpoint_freq: 2, use_tb_logger: false}
"""


def test_list_of_folders_passes_the_parser(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    write_folder(tmp_path / "one")
    write_folder(tmp_path / "two")
    Path("o.yml").write_text(OPTIONS, encoding="utf-8")
    monkeypatch.setattr(sys, "argv", ["basicsr", "-opt", "o.yml"])
    opt, _ = parse_options(str(tmp_path), is_train=True)
    training, validation = (build_dataset(section) for section in opt["datasets"].values())
    assert [Path(image.path).parent.name for image in training.originals] == ["one"] * 3 + [
        "two"
    ] * 3
    assert training.options.manual_seed == 3
    assert len(validation) == 3
