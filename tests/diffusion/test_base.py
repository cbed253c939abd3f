"""The base folder: which files load, and which lines say what is wrong."""

import json
import logging
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from cir_diffusion.base import load_base
from cir_host.errors import UserError

pytest.importorskip("diffusers")
UNET = "unet/diffusion_pytorch_model"
VAE = "vae/diffusion_pytorch_model"


@pytest.fixture
def folder(tiny_files, tmp_path):
    return shutil.copytree(tiny_files.base, tmp_path / "base")


def equal(network, other):
    ours, theirs = network.state_dict(), other.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[n], theirs[n]) for n in ours)


def test_the_base_is_loaded_in_float32_for_evaluation(tiny_files):
    base = load_base(tiny_files.base, 48)
    assert not base.unet.training
    assert not base.vae.training
    assert {p.dtype for p in base.unet.parameters()} == {torch.float32}
    assert base.schedule.signal(499) == pytest.approx(0.2776694)


def test_the_schedule_is_read_from_the_folder(folder):
    change(folder / "scheduler/scheduler_config.json", beta_end=0.02)
    assert load_base(folder, 48).schedule.last == 0.02


def test_weights_in_a_bin_file_load(tiny_files, folder):
    weights = folder / f"{UNET}.safetensors"
    torch.save(load_file(weights), folder / f"{UNET}.bin")
    weights.unlink()
    assert equal(load_base(folder, 48).unet, load_base(tiny_files.base, 48).unet)


def test_half_precision_weights_load_as_float32(folder):
    weights = folder / f"{UNET}.safetensors"
    halved = {name: value.half() for name, value in load_file(weights).items()}
    save_file(halved, folder / f"{UNET}.fp16.safetensors", {"format": "pt"})
    weights.unlink()
    loaded = load_base(folder, 48).unet.state_dict()
    assert all(torch.equal(loaded[name], value.float()) for name, value in halved.items())


def test_old_names_of_the_vaes_attention_load(tiny_files, folder):
    weights = folder / f"{VAE}.safetensors"
    names = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}

    def old(name):
        for new, before in names.items():
            name = name.replace(f".attentions.0.{new}.", f".attentions.0.{before}.")
        return name

    state = {old(name): value for name, value in load_file(weights).items()}
    assert "encoder.mid_block.attentions.0.query.weight" in state
    save_file(state, weights, {"format": "pt"})
    assert equal(load_base(folder, 48).vae, load_base(tiny_files.base, 48).vae)


def test_notices_of_diffusers_are_silenced(folder):
    change(folder / "vae/config.json", of_another_version=1)
    records = []
    handler = logging.Handler()
    handler.emit = records.append
    logger = logging.getLogger("diffusers")
    level = logger.level
    logger.addHandler(handler)
    try:
        load_base(folder, 48)
    finally:
        logger.removeHandler(handler)
    assert not records
    assert logger.level == level


def change(path, **values):
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def line_of(folder, context=48):
    with pytest.raises(UserError) as caught:
        load_base(folder, context)
    line = str(caught.value)
    assert "\n" not in line
    return line


@pytest.mark.parametrize(
    "name",
    [
        "unet/config.json",
        f"{UNET}.safetensors",
        "vae/config.json",
        f"{VAE}.safetensors",
        "scheduler/scheduler_config.json",
    ],
)
def test_a_missing_file_is_named(folder, name):
    (folder / name).unlink()
    assert line_of(folder).startswith(f"{folder / name}: no such file")
    assert "stable-diffusion-2-1-base in diffusers' layout" in line_of(folder)


def test_a_folder_is_needed(folder, tmp_path):
    assert "no such folder; the base is a folder" in line_of(tmp_path / "nowhere")
    assert "is a file; the base is a folder" in line_of(folder / "unet/config.json")


@pytest.mark.parametrize(
    "name, values, text",
    [
        (
            "scheduler/scheduler_config.json",
            {"prediction_type": "v_prediction"},
            "prediction_type is v_prediction, as of Stable Diffusion 2.1 for 768 pixels, not"
            " epsilon; give stable-diffusion-2-1-base",
        ),
        (
            "scheduler/scheduler_config.json",
            {"beta_schedule": "linear"},
            "beta_schedule is linear, not scaled_linear",
        ),
        (
            "scheduler/scheduler_config.json",
            {"beta_start": None},
            "beta_start, beta_end and num_train_timesteps must be numbers",
        ),
        (
            "unet/config.json",
            {"cross_attention_dim": 768},
            "cross_attention_dim is 768, and the checkpoint needs 48; give",
        ),
        ("vae/config.json", {"_class_name": "VQModel"}, "the vae is a VQModel; give"),
    ],
)
def test_a_base_of_another_kind_is_refused(folder, name, values, text):
    change(folder / name, **values)
    assert line_of(folder).startswith(f"{folder / name}: {text}")


@pytest.mark.parametrize("content", [b"{", b"[]", b"\xff\xfe"])
def test_a_damaged_configuration_is_named(folder, content):
    path = folder / "vae/config.json"
    path.write_bytes(content)
    assert line_of(folder).startswith(f"{path}: ")


def test_weights_that_are_cut_short_are_named(folder):
    path = folder / f"{VAE}.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    assert line_of(folder).startswith(f"{folder / 'vae'}: diffusers cannot load it (")


def test_a_pointer_of_git_lfs_is_recognised(folder):
    (folder / f"{UNET}.safetensors").write_text("version https://git-lfs.github.com/spec/v1\n")
    assert "git-lfs" in line_of(folder)


def test_weights_that_lack_a_tensor_are_refused(folder):
    path = folder / f"{UNET}.safetensors"
    state = load_file(path)
    del state["conv_out.bias"]
    save_file(state, path, {"format": "pt"})
    assert (
        line_of(folder)
        == f"{folder / 'unet'}: the weights lack conv_out.bias; copy the folder again"
    )


def test_a_missing_part_of_sharded_weights_is_one_line(folder):
    path = folder / f"{UNET}.safetensors"
    path.unlink()
    index = {"metadata": {}, "weight_map": {"conv_in.weight": "unet-1.safetensors"}}
    path.with_name(f"{path.name}.index.json").write_text(json.dumps(index))
    assert line_of(folder).startswith(f"{folder / 'unet'}: diffusers cannot load it (")


def test_objects_in_a_bin_file_are_not_run(folder):
    (folder / f"{UNET}.safetensors").unlink()

    class Stranger:
        def __reduce__(self):
            return print, ("this must not be printed",)

    torch.save({"conv_in.weight": Stranger()}, folder / f"{UNET}.bin")
    assert "diffusers cannot load it" in line_of(folder)


def test_a_missing_package_is_named(folder, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "diffusers", None)
    assert "CODiff needs the package diffusers" in line_of(folder)
    assert "pip install 'basicsr-cir[diffusion]'" in line_of(folder)
