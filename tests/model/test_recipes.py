"""Every recipe takes two steps: its own data, losses and schedule, with a small network."""

import copy
import re

import pytest
import torch
import yaml
from basicsr.archs import build_network
from basicsr.data import build_dataset
from basicsr.utils.options import ordered_yaml
from basicsr.utils.registry import MODEL_REGISTRY
from command_tools import photographs
from diffusion_tools import RANKS, write_tiny
from small_networks import APART_FROM_THE_IMAGE
from torch.utils.data import DataLoader
from vgg_tools import empty_cache, narrow_vgg, untrained_network_of

import cir_data  # noqa: F401 (registers its data sets)
import cir_model  # noqa: F401
from cir_arch.network import entry_named
from cir_cli.options_files import shipped
from cir_host import option_keys
from cir_host.rehearsal import model_without_networks
from cir_model.metrics.perceptual import METRICS

CROP = 32
"""Edge of the small image: the largest total stride of a network is 32."""


def load(name):
    return yaml.load(shipped()[name].read_text(encoding="utf-8"), Loader=ordered_yaml()[0])


KEPT = (
    *("stage", "act_mode", "freeze_predictor", "identity_start", "zero_prompts"),
    *("scale", "upsampler", "upscale"),
)
"""Arguments of a recipe's network that its small variant keeps."""

RECIPES = [name for name in shipped() if "train" in load(name) and not name.startswith("demo_")]


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return photographs(tmp_path_factory.mktemp("recipes") / "photos", size=160)


def shrink(options, photos):
    """Make network and crops small and take the photographs; all else stays that of the file."""
    scale, network = options["scale"], options["network_g"]["type"]
    train = options["datasets"]["train"]
    train |= {"dataroot_gt": str(photos), "gt_size": CROP * scale}
    if network == "CODiffLoRA":
        files = write_tiny(photos.parent / "codiff")
        options["network_g"] |= {"base": str(files.base), "cave": str(files.cave), **RANKS}
        options["network_d"] |= {"base": str(files.base), "rank": 2}
        train["gt_size"] = 136  # the least of its discriminator
    else:
        kept = {k: v for k, v in options["network_g"].items() if k in KEPT}
        options["network_g"] = {"type": network, **entry_named(network).small, **kept}
    if "network_s1" in options:
        options["network_s1"] |= entry_named("DiffIR").small
        options["path"]["pretrain_network_s1"] = str(photos.parent / "s1.pth")
        state = build_network(dict(options["network_s1"])).state_dict()
        torch.save(state, options["path"]["pretrain_network_s1"])
        if "encoder_iter" in options["train"]["prior"]:
            options["train"]["prior"]["encoder_iter"] = 0  # test_diffir_model.py has these
    if "num_feat" in options.get("network_d", {}):
        options["network_d"]["num_feat"] = 4
    if "frequency" in options["train"].get("losses", {}):
        train["gt_size"] = 3 * CROP  # the least of this loss is 80
    if "dataroot_lq" in train:
        train["dataroot_lq"] = str(photos)
    train.pop("meta_info_file", None)
    for phase, section in options["datasets"].items():  # as BasicSR's parser does
        section |= {"phase": phase.split("_")[0], "scale": scale, "manual_seed": 0}
    if train.get("library", "pillow") != "pillow":
        pytest.importorskip("jpeglib")
    if "codecs" in train:  # the others are folders that somebody else's codec has to fill
        train["codecs"] = [entry for entry in train["codecs"] if "codec" in entry]
    options["path"]["pretrain_network_g"] = None
    options |= {"is_train": True, "dist": False, "rank": 0, "world_size": 1, "num_gpu": 0}
    return options


@pytest.mark.parametrize("name", RECIPES)
def test_two_steps(name, photos, monkeypatch, tmp_path):
    narrow_vgg(monkeypatch)
    named = {*load(name)["train"].get("losses", {}), *load(name).get("val", {}).get("metrics", {})}
    if metrics := METRICS.keys() & named:
        pytest.importorskip("torchmetrics")
        cache = empty_cache(monkeypatch, tmp_path)
        for metric in metrics:
            untrained_network_of(metric, monkeypatch, cache)
    if "CODiff" in load(name)["model_type"]:
        pytest.importorskip("diffusers")
    options = shrink(load(name), photos)
    torch.manual_seed(0)
    assert option_keys.check(copy.deepcopy(options), load(name)) == []
    cls, given = MODEL_REGISTRY.get(options["model_type"]), copy.deepcopy(options)
    made = cls(options)
    network = made.get_bare_model(made.net_g)
    model_without_networks(given).rehearse(network)
    before = {n: p.clone() for n, p in network.named_parameters() if p.requires_grad}
    frozen = {n: p.clone() for n, p in network.named_parameters() if not p.requires_grad}
    data = DataLoader(build_dataset(given["datasets"]["train"]), batch_size=2)
    stages = cls.training_stages(given, given["datasets"]["train"]["batch_size_per_gpu"])
    assert stages[-1].last_iter == given["train"]["total_iter"]
    for iteration in (1, 2):
        made.update_learning_rate(iteration)
        made.feed_data(next(iter(data)))
        made.optimize_parameters(iteration)
        wanted = {f"l_{n}" for n in given["train"].get("losses", {})}
        wanted |= {"l_pix"} if given["train"].get("pixel_opt") else set()
        wanted |= {"l_quality"} if given["train"].get("quality_opt") else set()
        if "network_d" in given:
            wanted |= {"l_gan", "l_d_real", "l_d_fake", "grad_norm_d"}
        wanted |= {"l_percep"} if given["train"].get("perceptual_opt") else set()
        for factor, loss in {"kd_l1_weight": "l_prior", "kd_kl_weight": "l_kl"}.items():
            wanted |= {loss} if given["train"].get("prior", {}).get(factor) else set()
        assert made.log_dict.keys() == wanted | {"grad_norm"}
    after = dict(network.named_parameters())
    assert all(torch.equal(value, after[n]) for n, value in frozen.items())
    moved = [n for n, value in before.items() if not torch.equal(value, after[n])]
    # what reads prompts that are kept at zero learns nothing
    assert len(moved) > (0.8 if "promptless" in name else 0.9) * len(before)


def trained(name, photos, start, folder):
    """Train a recipe of UCIP for three steps; its averaged weights before and after, their file."""
    options = shrink(load(name), photos)
    data = DataLoader(build_dataset(options["datasets"]["train"]), batch_size=2)
    options["path"] |= {"pretrain_network_g": start, "models": str(folder)}
    torch.manual_seed(0)
    made = MODEL_REGISTRY.get(options["model_type"])(options)
    before = {k: v.clone() for k, v in made.net_g_ema.state_dict().items()}
    for iteration in (1, 2, 3):
        made.feed_data(next(iter(data)))
        made.optimize_parameters(iteration)
    made.save_networks(name)
    return before, made.net_g_ema.state_dict(), str(folder / f"net_g_{name}.pth")


WITHOUT_EFFECT = re.compile(APART_FROM_THE_IMAGE["UCIP"])


@pytest.mark.parametrize(
    ("name", "earlier", "tuned"),
    [
        ("ucip_x4_webp.yml", "ucip_x4.yml", r"^prompts\."),
        ("ucip_x4_webp_added.yml", "ucip_x4_promptless.yml", r"^prompts\."),
        ("ucip_x4_webp_full.yml", "ucip_x4_promptless.yml", ""),
    ],
)
def test_ways_of_tuning_to_a_new_codec(name, earlier, tuned, photos, tmp_path):
    """What is frozen stays to the bit, all else moves; prompts that are added begin at zero."""
    begun, pretrained, file = trained(earlier, photos, None, tmp_path)
    added = "promptless" in earlier
    for key in (key for key in begun if key.startswith("prompts.")):
        assert torch.equal(pretrained[key], begun[key]) == added, key
    before, after, _ = trained(name, photos, file, tmp_path)
    for key, value in before.items():
        assert torch.equal(value, pretrained[key]), key
        if key.endswith(".prompt"):
            assert bool(value.any()) != added, key
        if not re.search(tuned, key):
            assert torch.equal(after[key], value), key
        elif not WITHOUT_EFFECT.fullmatch(key):
            assert not torch.equal(after[key], value), key
