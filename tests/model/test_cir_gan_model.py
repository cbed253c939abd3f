"""``CIRGANModel``: BasicSR's step, what CIRModel adds to it, what it needs, and its resuming."""

import copy
from types import SimpleNamespace
from urllib.error import URLError

import pytest
import torch
from basicsr.archs import vgg_arch
from basicsr.models.srgan_model import SRGANModel
from command_tools import photographs, train_options
from host_tools import run_here
from training_tools import (
    assert_close,
    assert_equal,
    batch,
    content,
    run,
    step,
    stopped_at,
    weights,
)
from vgg_tools import narrow_vgg

from cir_cli.options_files import find
from cir_host.errors import OptionsError, UserError
from cir_host.rehearsal import model_without_networks
from cir_model import CIRGANModel

NETWORK = {"type": "SRVGGNetCompact", "num_feat": 4, "num_conv": 1, "upscale": 1}
DISCRIMINATOR = {"type": "UNetDiscriminatorSN", "num_in_ch": 3, "num_feat": 4}
PERCEPTUAL = {"type": "PerceptualLoss", "layer_weights": {"conv1_2": 0.1, "conv3_4": 1.0}}
ADVERSARIAL = {
    "optim_d": {"type": "Adam", "lr": 1e-3},
    "gan_opt": {"type": "GANLoss", "gan_type": "vanilla", "loss_weight": 0.05},
    "perceptual_opt": PERCEPTUAL,
}


@pytest.fixture(autouse=True)
def vgg(monkeypatch):
    narrow_vgg(monkeypatch)


def options(network_d=DISCRIMINATOR, **train):
    opt = train_options(model_type="CIRGANModel", network_d=dict(network_d))
    opt["train"].update(copy.deepcopy({**ADVERSARIAL, **train}))
    return opt


def model(cls=CIRGANModel, network_d=DISCRIMINATOR, **train):
    """A model in training without a folder, its weights always the same."""
    opt = options(network_d, **{"optim_g": {"type": "Adam", "lr": 1e-3}, **train})
    opt.update(network_g=dict(NETWORK), is_train=True, dist=False, rank=0, world_size=1)
    torch.manual_seed(0)
    return cls(opt)


def test_the_steps_are_those_of_basicsr():
    ours, stock = model(), model(SRGANModel)
    for net in ("net_g", "net_g_ema", "net_d"):
        getattr(stock, net).load_state_dict(weights(ours, net))
    names = {"l_pix": "l_g_pix", "l_percep": "l_g_percep", "l_gan": "l_g_gan"}
    for iteration in (1, 2, 3):
        data = batch(seed=iteration)
        log, theirs = step(ours, data, iteration), step(stock, data, iteration)
        for name in ("l_pix", "l_percep", "l_gan", "l_d_real", "l_d_fake"):
            assert log[name] == pytest.approx(theirs[names.get(name, name)], rel=1e-4), name
    for net in ("net_g", "net_g_ema", "net_d"):
        assert_close(weights(ours, net), weights(stock, net), rtol=1e-4, atol=1e-6)


def test_parts_of_a_step_are_the_whole_batch():
    """Without spectral norm, whose estimate each pass improves."""
    sgd = {"optim_g": {"type": "SGD", "lr": 0.1}, "optim_d": {"type": "SGD", "lr": 0.1}}
    made = [model(network_d=NETWORK, accum_iter=parts, **sgd) for parts in (1, 2)]
    before = weights(made[0], "net_d")
    logs = [step(m) for m in made]
    assert logs[0] == pytest.approx(logs[1], rel=1e-4)
    for net in ("net_g", "net_d"):
        assert_close(weights(made[0], net), weights(made[1], net), rtol=1e-4, atol=1e-6)
    assert any(not torch.equal(v, before[k]) for k, v in weights(made[0], "net_d").items())


@pytest.mark.parametrize("kind", ["bf16", "fp16"])
def test_mixed_precision_is_for_both_networks(kind):
    exact, coarse = model(), model(amp=kind)
    seen = []
    coarse.net_d.conv9.register_forward_hook(lambda *a: seen.append(a[2].dtype))
    first, second = step(exact), step(coarse)
    assert set(seen) == {torch.bfloat16 if kind == "bf16" else torch.float16}
    losses = [name for name in first if name.startswith("l_")]
    assert [first[n] for n in losses] == pytest.approx([second[n] for n in losses], rel=0.1)
    assert first["grad_norm_d"] != second["grad_norm_d"]


@pytest.mark.parametrize("poisoned", ["lq", "gt"])
def test_neither_network_takes_a_step_that_is_not_finite(poisoned):
    made = model()
    step(made)
    before = [weights(made, net) for net in ("net_g", "net_g_ema")]
    judge = {k: v.clone() for k, v in made.net_d.named_parameters()}
    data = batch()
    data[poisoned][0, 0, 0, 0] = float("nan")
    assert step(made, data, 2)["skipped"] == 1
    for net, kept in zip(("net_g", "net_g_ema"), before, strict=True):
        assert_close(weights(made, net), kept, rtol=0, atol=0)
    assert_close(dict(made.net_d.named_parameters()), judge, rtol=0, atol=0)
    assert "skipped" in step(made, iteration=3)  # and both go on
    assert any(not torch.equal(p, judge[n]) for n, p in made.net_d.named_parameters())


def test_patterns_of_groups_are_those_of_the_restoring_network():
    made = model(groups=[{"pattern": r"body\.0", "freeze": True}])
    before = weights(made)
    step(made)
    frozen = {n for n, v in weights(made).items() if torch.equal(v, before[n])}
    assert frozen == {"body.0.weight", "body.0.bias"}


def test_a_resumed_run_ends_the_same_and_both_networks_learn(tmp_path):
    photographs(tmp_path / "photos", size=32)
    made = options(total_iter=4, accum_iter=2)
    made["train"]["scheduler"]["periods"] = [4]
    made["datasets"]["train"]["num_worker_per_gpu"] = 0
    made["val"]["val_freq"] = 2
    made["logger"]["save_checkpoint_freq"] = 1
    whole = run(tmp_path, made)
    elsewhere = tmp_path / "elsewhere"
    stopped_at(whole, 2, elsewhere)
    (elsewhere / "photos").symlink_to(tmp_path / "photos")
    resumed = run(elsewhere, made, "--auto_resume")
    assert_equal(content(resumed, 4), content(whole, 4))

    def discriminator(folder, iteration):
        return torch.load(folder / f"models/net_d_{iteration}.pth", weights_only=True)["params"]

    assert_equal(discriminator(resumed, 4), discriminator(whole, 4))
    first, last = discriminator(whole, 1), discriminator(whole, 4)
    assert all(not torch.equal(first[n], last[n]) for n in first if "conv" in n)
    first, last = (content(whole, i)["network"]["params"] for i in (1, 4))
    weights_of = [n for n in first if first[n].is_floating_point()]
    assert sum(not torch.equal(first[n], last[n]) for n in weights_of) > 0.9 * len(weights_of)
    assert len((whole / "metrics.csv").read_text().splitlines()) == 1 + 2 * 4


def no_network(pretrained):
    raise URLError("no route to host")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"network_d": None},
            "^network_d: missing; model_type: CIRGANModel trains a discriminator",
        ),
        ({"gan_opt": {"type": "GANLoss", "gan_type": "gan"}}, r"train\.gan_opt\.gan_type"),
        ({"optim_d": None}, r"^train\.optim_d"),
        ({"optim_d": {"type": "Adam", "lr": 1, "momentum": 1}}, r"^train\.optim_d: Adam cannot be"),
        (
            {"perceptual_opt": {**PERCEPTUAL, "layer_weights": {"conv9_1": 1.0}}},
            r"^train\.perceptual_opt: .*in list",
        ),
        (
            {"perceptual_opt": {**PERCEPTUAL, "vgg_type": "vgg20"}},
            r"^train\.perceptual_opt: PerceptualLoss does not know 'vgg20'",
        ),
    ],
)
def test_what_cannot_be_trained_is_named_before_anything_is_made(
    change, message, tmp_path, monkeypatch
):
    photographs(tmp_path / "photos", size=32)
    made = options(**{k: v for k, v in change.items() if k != "network_d"})
    made |= {k: v for k, v in change.items() if k == "network_d"}
    with pytest.raises(OptionsError, match=message):
        run_here(monkeypatch, tmp_path, made)
    assert not (tmp_path / "experiments").exists()


def test_weights_that_cannot_be_had_are_named(monkeypatch):
    monkeypatch.setattr(vgg_arch, "vgg", SimpleNamespace(vgg19=no_network))
    wanted = (
        r"cannot load the weights of vgg19 \(.*no route to host.*\); put"
        r" https://download\.pytorch\.org/models/vgg19-dcbb9e9d\.pth into .*checkpoints$"
    )
    with pytest.raises(UserError, match=f"^{wanted}"):
        model()
    before_building = model_without_networks({**options(), "is_train": True})
    with pytest.raises(OptionsError, match=rf"^train\.perceptual_opt: {wanted}"):
        before_building.rehearse(torch.nn.Conv2d(3, 3, 1))


def test_layers_of_the_recipe_are_those_that_the_supplement_prints():
    with find("promptcir_x1_gan.yml").open(encoding="utf-8") as file:
        text = file.read()
    for number, weight in {2: "0.1", 7: "0.1", 16: "1.0", 25: "1.0", 34: "1.0"}.items():
        assert f"      {vgg_arch.NAMES['vgg19'][number]}: {weight}\n" in text
