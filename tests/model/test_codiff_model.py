"""``CODiffModel``: who gets which gradients, its files, what it needs, and its resuming."""

import copy
import csv

import numpy as np
import pytest
import torch
from command_tools import photographs, train_options
from diffusion_tools import RANKS, tiny_codiff, tiny_parts, write_tiny
from host_tools import run_here
from PIL import Image
from training_tools import assert_equal, batch, content, step, stopped_at, weights

from cir_cli import main
from cir_diffusion.codiff_lora import state_of
from cir_host.errors import OptionsError, UserError
from cir_model import CODiffModel

pytest.importorskip("diffusers")

CROP = 136
"""The smallest that the discriminator can judge."""


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return write_tiny(tmp_path_factory.mktemp("tiny"))


def options(files, network_d=None, **train):
    paths = {"base": str(files.base), "cave": str(files.cave)}
    opt = train_options(
        model_type="CODiffModel",
        network_g={"type": "CODiffLoRA", **paths, **RANKS},
        network_d={"type": "CODiffDiscriminator", "base": paths["base"], "rank": 2},
    )
    opt["network_d"] |= network_d or {}
    optimizer = {"type": "AdamW", "lr": 1e-3, "weight_decay": 1e-5}
    gan = {"type": "GANLoss", "gan_type": "vanilla", "loss_weight": 5e-3}
    opt["train"] |= {"optim_g": dict(optimizer), "optim_d": dict(optimizer), "ema_decay": 0}
    opt["train"] |= {"pixel_opt": {"type": "MSELoss"}, "gan_opt": gan, **copy.deepcopy(train)}
    opt["datasets"]["train"] |= {"gt_size": CROP, "batch_size_per_gpu": 1, "num_worker_per_gpu": 0}
    return opt


def model(files, start=None, network_d=None, **train):
    """A model in training without a folder, its weights always the same."""
    opt = options(files, network_d, **train)
    opt["path"]["pretrain_network_g"] = start
    opt.update(is_train=True, dist=False, rank=0, world_size=1)
    torch.manual_seed(0)
    return CODiffModel(opt)


def data(seed=1):
    return batch(number=1, size=CROP, seed=seed)


def graded(network):
    return {name for name, p in network.named_parameters() if p.grad is not None and p.grad.any()}


def test_the_gan_term_trains_the_network_through_the_features_of_the_discriminator(files):
    made = model(files, start=str(files.pickle))
    made.feed_data(data())
    made.net_d.requires_grad_(False)
    losses = made.compute_losses(made.lq, made.gt, {})
    losses["l_gan"].backward()
    latent = made.net_g(made.lq, return_latent=True)[1]
    verdict = made.net_d(latent)
    wanted = 5e-3 * torch.nn.functional.softplus(-verdict).mean()
    torch.testing.assert_close(losses["l_gan"], wanted)
    assert graded(made.net_g) == made.net_g.state_dict().keys()
    assert not graded(made.net_d)


def test_each_network_is_trained_by_its_own_losses_and_the_base_by_none(files):
    made = model(files, start=str(files.pickle))
    nets = {"net_g": made.net_g, "net_d": made.net_d}
    before = {
        label: {name: p.clone() for name, p in net.named_parameters()}
        for label, net in nets.items()
    }
    statistics = {name: b.clone() for name, b in made.net_g.named_buffers()}
    for iteration in (1, 2):
        log = step(made, data(iteration), iteration)
    assert log.keys() == {"l_pix", "l_gan", "l_d_real", "l_d_fake", "grad_norm", "grad_norm_d"}
    for label, net in nets.items():
        moved = {n for n, p in net.named_parameters() if not torch.equal(p, before[label][n])}
        assert moved == net.state_dict().keys()
    assert all(torch.equal(b, statistics[n]) for n, b in made.net_g.named_buffers())


def test_the_discriminator_judges_latents_of_the_base_and_of_the_output(files):
    made = model(files, start=str(files.pickle), d_loss_weight=0.5)
    made.feed_data(data())
    seen = []
    made.net_d.register_forward_pre_hook(lambda _, given: seen.append(given[0].detach()))
    torch.manual_seed(3)
    losses = made.backward()
    torch.manual_seed(3)
    of_output, real, fake = seen
    assert torch.equal(of_output, fake)
    assert torch.equal(fake, made.net_g(made.lq, return_latent=True)[1])
    assert torch.equal(real, made.net_g.latent_by_base(made.gt))
    for name, latent, sign in (("l_d_real", real, -1), ("l_d_fake", fake, 1)):
        wanted = 0.5 * torch.nn.functional.softplus(sign * made.net_d(latent)).mean()
        torch.testing.assert_close(losses[name], wanted)


def test_the_release_trains_by_the_image_alone(files):
    """The GAN term of its code is a constant, and the discriminator's features are not trained."""
    made = model(files, network_d={"frozen_features": True})
    made.feed_data(data())
    made.net_d.requires_grad_(False)
    losses = made.compute_losses(made.lq, made.gt, {})
    assert not losses["l_gan"].requires_grad
    made.net_d.head.requires_grad_(True)
    before = weights(made, "net_d")
    step(made, data())
    after = weights(made, "net_d")
    assert {name.partition(".")[0] for name in after} == {"head"}
    assert not any(torch.equal(after[name], value) for name, value in before.items())


def test_a_file_of_the_release_is_where_training_may_begin(files):
    made = model(files, start=str(files.pickle), ema_decay=0.5)
    expected = state_of(tiny_parts())
    assert_equal(dict(made.net_g.state_dict()), expected)
    assert_equal(dict(made.net_g_ema.state_dict()), expected)


def test_a_file_has_the_averaged_weights_for_others_and_both_for_resuming(files, tmp_path):
    made = model(files, start=str(files.pickle), ema_decay=0.5)
    made.opt["path"]["models"] = str(tmp_path)
    step(made, data())
    made.save_networks(1)
    saved = torch.load(tmp_path / "net_g_1.pth", weights_only=True)
    latest, averaged = weights(made), weights(made, "net_g_ema")
    assert_equal(saved["params"], latest)
    assert_equal(saved["params_ema"], averaged)
    parts = {"unet": "state_dict_unet", "vae": "state_dict_vae", "proj": "proj"}
    for_others = {f"{p}.{n}": v for p, key in parts.items() for n, v in saved[key].items()}
    assert_equal(for_others, averaged)
    assert saved["proj"]["weight"].data_ptr() == saved["params_ema"]["proj.weight"].data_ptr()
    assert not torch.equal(latest["proj.weight"], averaged["proj.weight"])
    again = model(files, start=str(tmp_path / "net_g_1.pth"), ema_decay=0.5)
    assert_equal(weights(again), averaged)
    frozen = dict(made.net_g.named_parameters())
    for name, parameter in made.net_g_ema.named_parameters():
        assert (parameter is frozen[name]) == (name not in averaged)


def test_mixed_precision(files):
    exact, coarse = (model(files, start=str(files.pickle), amp=kind) for kind in ("off", "bf16"))
    seen = []
    coarse.net_g.unet.mid_block.register_forward_hook(lambda *a: seen.append(a[2].dtype))
    first, second = step(exact, data()), step(coarse, data())
    assert seen == [torch.bfloat16]
    for name in ("l_pix", "l_gan", "l_d_real", "l_d_fake"):
        assert first[name] == pytest.approx(second[name], rel=0.2), name
        assert first[name] != second[name]


def test_a_resumed_run_ends_the_same_and_its_file_restores(files, tmp_path, monkeypatch):
    photographs(tmp_path / "photos", names=("astronaut", "coffee"), size=CROP)
    made = options(files, total_iter=2, ema_decay=0.5)
    made["train"]["scheduler"]["periods"] = [2]
    made["val"]["val_freq"] = 2
    made["logger"]["save_checkpoint_freq"] = 1
    run_here(monkeypatch, tmp_path, made)
    whole, elsewhere = tmp_path / "experiments/run", tmp_path / "elsewhere"
    resumed = stopped_at(whole, 1, elsewhere)
    (elsewhere / "photos").symlink_to(tmp_path / "photos")
    run_here(monkeypatch, elsewhere, made, "--auto_resume")
    assert_equal(content(resumed, 2), content(whole, 2))
    judges = [
        torch.load(folder / "models/net_d_2.pth", weights_only=True) for folder in (resumed, whole)
    ]
    assert_equal(*judges)
    trained = content(whole, 2)["network"]["params"]
    assert trained.keys() == state_of(tiny_parts()).keys()
    assert len((whole / "metrics.csv").read_text().splitlines()) == 1 + 2 + 1

    weights_file = whole / "models/net_g_2.pth"
    with Image.open(tmp_path / "photos/coffee.png") as picture:
        picture.crop((0, 0, 45, 38)).save(tmp_path / "photo.jpg", quality=10)
    words = ["restore", tmp_path / "photo.jpg", "-o", tmp_path / "out", "-m", weights_file]
    words += ["--base", files.base, "--cave", files.cave, "--device", "cpu"]
    assert main.main([str(word) for word in words]) == 0
    training = model(files, start=str(weights_file)).net_g.eval()
    with torch.no_grad():
        wanted = 255 * training(as_image(tmp_path / "photo.jpg"))
    found = 255 * as_image(tmp_path / "out/photo.png")
    torch.testing.assert_close(found, wanted, atol=0.51, rtol=0)


def test_a_test_measures_the_files_of_the_release(files, tmp_path, monkeypatch):
    photographs(tmp_path / "photos", names=("coffee",), size=40)
    made = options(files)
    made["path"]["pretrain_network_g"] = str(files.pickle)
    made["datasets"] = {"test_1": {**made["datasets"]["val"], "name": "photos"}}
    made["val"]["save_img"] = True
    for section in ("train", "network_d"):
        del made[section]
    run_here(monkeypatch, tmp_path, made, command="test")
    original = as_image(tmp_path / "photos/coffee.png")
    found = as_image(tmp_path / "results/run/visualization/photos/coffee_run.png")
    psnr = -10 * (found - original).square().mean().log10()
    with (tmp_path / "results/run/metrics.csv").open(newline="") as table:
        row = next(csv.DictReader(table))
    assert float(row["psnr_output"]) == pytest.approx(psnr.item(), abs=1e-3)
    Image.open(tmp_path / "photos/coffee.png").save(tmp_path / "coffee.jpg", quality=10)
    with torch.no_grad():
        wanted = tiny_codiff()(as_image(tmp_path / "coffee.jpg"))
    torch.testing.assert_close(found, wanted, atol=0.51 / 255, rtol=0)


def as_image(path):
    with Image.open(path) as picture:
        return torch.from_numpy(np.asarray(picture) / np.float32(255)).permute(2, 0, 1)[None]


@pytest.mark.parametrize(
    ("section", "change", "message"),
    [
        (
            "network_g",
            {"type": "SRVGGNetCompact"},
            r"^network_g\.type: SRVGGNetCompact is not CODiffLoRA",
        ),
        (
            "network_d",
            {"type": "UNetDiscriminatorSN", "num_in_ch": 3},
            r"^network_d\.type: .* needs CODiffDiscriminator, .*; it is UNetDiscriminatorSN$",
        ),
        ("network_d", None, r"^network_d\.type: .*; it is missing$"),
        (
            "network_g",
            {"type": "CODiffLoRA", "base": "nowhere", "cave": "cave.pth"},
            "^network_g: nowhere: no such folder; the base is a folder",
        ),
        (
            "network_d",
            {"type": "CODiffDiscriminator", "base": "nowhere"},
            "^network_d: nowhere: no such folder; the base is a folder",
        ),
        ("network_g", {"rank_vae": 0}, r"^network_g: rank: must be 1 or more, is 0$"),
        (
            "network_g",
            {"align": "colour"},
            r"^network_g: align: 'colour' is none of adain, wavelet, none$",
        ),
    ],
)
def test_networks_that_cannot_be_trained_are_named_before_anything_is_made(
    section, change, message, files, tmp_path, monkeypatch
):
    photographs(tmp_path / "photos", size=CROP)
    made = options(files)
    made[section] = change if change is None or "type" in change else made[section] | change
    with pytest.raises(OptionsError, match=message):
        run_here(monkeypatch, tmp_path, made)
    assert not (tmp_path / "experiments").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"state_dict_unet": {"a": torch.ones(1)}}, "is OSEDiff"),
        (
            {"conv_in.weight": torch.ones(1)},
            r"does not fit CODiffLoRA: .* 1 unexpected \(conv_in\.weight\)",
        ),
        ([torch.ones(1)], "holds a list, not a state dict"),
    ],
)
def test_a_start_that_is_not_codiff_is_named(content, message, files, tmp_path):
    torch.save(content, tmp_path / "start.pth")
    with pytest.raises(UserError, match=message):
        model(files, start=str(tmp_path / "start.pth"))


def test_a_start_of_another_rank_is_named(files):
    opt = options(files)
    opt["network_g"]["rank_vae"] = 8
    opt["path"]["pretrain_network_g"] = str(files.pickle)
    opt.update(is_train=True, dist=False, rank=0, world_size=1)
    with pytest.raises(UserError, match=r"does not fit CODiffLoRA: .* 64 mismatching"):
        CODiffModel(opt)


@pytest.mark.parametrize("size", [128, 140])
def test_crops_that_the_discriminator_cannot_judge_are_named(size, files, tmp_path, monkeypatch):
    photographs(tmp_path / "photos", size=160)
    made = options(files)
    made["datasets"]["train"]["gt_size"] = size
    message = rf"^datasets\.train\.gt_size: must be a multiple of 8, at least 136, .* is {size}$"
    with pytest.raises(OptionsError, match=message):
        run_here(monkeypatch, tmp_path, made)
