"""``DiffIRModel``: stage 1, the prior of stage 2 and its phases, what they need, resuming."""

import copy

import pytest
import torch
from basicsr.archs import build_network
from command_tools import photographs, train_options
from host_tools import run_here
from small_networks import SMALL
from training_tools import assert_equal, batch, content, run, step, stopped_at
from vector_tools import fill
from vgg_tools import narrow_vgg

from cir_host.errors import OptionsError
from cir_model import DiffIRGANModel, DiffIRModel

TEACHER = {"type": "DiffIR", "stage": 1, **SMALL["DiffIR"]}
STUDENT = {"type": "DiffIR", **SMALL["DiffIR"]}
ADVERSARIAL = {
    "optim_d": {"type": "Adam", "lr": 1e-3},
    "gan_opt": {"type": "GANLoss", "gan_type": "vanilla"},
}


@pytest.fixture(scope="module")
def taught(tmp_path_factory):
    """A file of stage 1."""
    torch.manual_seed(1)
    path = tmp_path_factory.mktemp("s1") / "s1.pth"
    state = fill(build_network(copy.deepcopy(TEACHER)).state_dict())
    torch.save({"params": state}, path)
    return str(path)


def options(taught, cls=DiffIRModel, **train):
    opt = train_options(model_type=cls.__name__, network_g=dict(STUDENT), network_s1=dict(TEACHER))
    opt["path"] |= {"pretrain_network_s1": taught, "ignore_resume_networks": ["network_s1"]}
    opt["train"] |= copy.deepcopy(train)
    if cls is DiffIRGANModel:
        opt["train"] |= copy.deepcopy(ADVERSARIAL)
        opt["network_d"] = {"type": "UNetDiscriminatorSN", "num_in_ch": 3, "num_feat": 4}
    return opt


def stage1(**train):
    opt = train_options(model_type="DiffIRModel", network_g=dict(TEACHER))
    opt["train"] |= copy.deepcopy(train)
    return opt


def made_from(opt, cls=DiffIRModel):
    opt.update(is_train=True, dist=False, rank=0, world_size=1)
    torch.manual_seed(0)
    return cls(opt)


def data(seed=1):
    return batch(number=2, size=32, seed=seed)


def test_stage_1_sees_the_ground_truth():
    made = made_from(stage1())
    made.net_g.load_state_dict(fill(made.net_g.state_dict()))
    expected = (made.net_g(data()["lq"], data()["gt"]) - data()["gt"]).abs().mean().item()
    before = {name: p.clone() for name, p in made.net_g.named_parameters()}
    for iteration in (1, 2):
        made.update_learning_rate(iteration)
        log = step(made, data(), iteration)
        if iteration == 1:
            assert log["l_pix"] == pytest.approx(expected, rel=1e-5)
            assert log.keys() == {"l_pix", "grad_norm"}
    moved = {n for n, p in made.net_g.named_parameters() if not torch.equal(p, before[n])}
    assert moved == before.keys()


def test_stage_2_starts_its_diffusion_at_the_prior_of_stage_1_and_noise(taught):
    made = made_from(options(taught, prior={"kd_l1_weight": 3.0, "kd_kl_weight": 2.0}))
    made.net_g.load_state_dict(fill(made.net_g.state_dict()))
    teacher = made.net_s1
    assert not any(p.requires_grad for p in teacher.parameters())
    lq, gt = data()["lq"], data()["gt"]
    with torch.no_grad():
        wanted = teacher(lq, gt, return_prior=True)[1]
    made.update_learning_rate(1)
    made.feed_data(data())
    torch.manual_seed(5)
    losses = made.compute_losses(lq, gt, {})
    torch.manual_seed(5)
    kept = 0.9 * (1 - 0.294286) * (1 - 0.590952) * 0.01
    start = kept**0.5 * wanted + (1 - kept) ** 0.5 * torch.randn(wanted.shape)
    image, found = made.net_g(lq, noise=start, return_prior=True)
    p, q = ((prior / 0.15).softmax(1) for prior in (wanted, found))
    expected = {
        "l_pix": (image - gt).abs().mean(),
        "l_prior": 3 * (found - wanted).abs().mean(),
        "l_kl": 2 * (p * (p / q).log()).sum(1).mean(),
    }
    assert losses.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(losses[name], value, rtol=1e-4, atol=1e-6, msg=name)
    losses["l_prior"].backward()  # through all steps
    assert all(p.grad.any() for p in made.net_g.denoise.parameters())


@pytest.mark.parametrize("cls", [DiffIRModel, DiffIRGANModel])
def test_the_prior_is_trained_first_and_alone(cls, taught):
    prior = {"encoder_iter": 2, "encoder_lr": 0.01, "encoder_milestones": [1], "encoder_gamma": 0.5}
    optim = {"type": "Adam", "lr": 0.002}
    scheduler = {"type": "MultiStepLR", "milestones": [1], "gamma": 0.1}
    groups = [{"pattern": r"denoise", "lr_factor": 2.0}]
    made = made_from(
        options(taught, cls, prior=prior, optim_g=optim, scheduler=scheduler, groups=groups), cls
    )
    rates, names = [], []
    for iteration in (1, 2, 3, 4):
        before = {n: p.clone() for n, p in made.net_g.named_parameters()}
        made.update_learning_rate(iteration)
        rates.append({round(group["lr"], 9) for group in made.optimizer_g.param_groups})
        names.append(step(made, data(), iteration).keys() - {"grad_norm", "grad_norm_d"})
        moved = {
            n.partition(".")[0]
            for n, p in made.net_g.named_parameters()
            if not torch.equal(p, before[n])
        }
        assert moved == {"condition", "denoise"} | ({"G"} if iteration > 2 else set())
    assert rates == [{0.01, 0.02}, {0.005, 0.01}, {0.002, 0.004}, {0.0002, 0.0004}]
    adversarial = {"l_gan", "l_d_real", "l_d_fake"} if cls is DiffIRGANModel else set()
    assert names == [{"l_prior"}] * 2 + [{"l_pix", "l_prior"} | adversarial] * 2


def test_a_resumed_run_of_stage_2_ends_the_same(taught, tmp_path):
    photographs(tmp_path / "photos", size=32)
    opt = options(taught, total_iter=4, prior={"encoder_iter": 2, "encoder_lr": 1e-3})
    opt["train"]["scheduler"] = {"type": "MultiStepLR", "milestones": [1], "gamma": 0.1}
    opt["datasets"]["train"]["num_worker_per_gpu"] = 0
    opt["val"]["val_freq"] = 4
    opt["logger"]["save_checkpoint_freq"] = 1
    whole = run(tmp_path, opt)
    for iteration in (1, 3):  # in each phase
        elsewhere = tmp_path / f"from{iteration}"
        stopped_at(whole, iteration, elsewhere)
        (elsewhere / "photos").symlink_to(tmp_path / "photos")
        resumed = run(elsewhere, opt, "--auto_resume")
        assert_equal(content(resumed, 4), content(whole, 4))
    assert not list((whole / "models").glob("net_s1*"))


def test_validation_of_stage_1_has_the_ground_truth(tmp_path, monkeypatch):
    photographs(tmp_path / "photos", size=32)
    opt = stage1(total_iter=1)
    opt["train"]["scheduler"]["periods"] = [1]
    opt["datasets"]["train"]["num_worker_per_gpu"] = 0
    opt["val"]["val_freq"] = 1
    run_here(monkeypatch, tmp_path, opt)
    assert (tmp_path / "experiments/run/metrics.json").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"network_s1": None}, "network_s1, path.pretrain_network_s1: missing"),
        ({"path": {"pretrain_network_s1": None}}, "network_s1, path.pretrain_network_s1: missing"),
        ({"path": {"ignore_resume_networks": None}}, "path.ignore_resume_networks: must be"),
        ({"network_s1": STUDENT}, "network_s1: must be {type: DiffIR, stage: 1}"),
        ({"network_s1": {**TEACHER, "n_feats": 4}}, "its prior_size is 16, that of network_g 32"),
        ({"network_g": TEACHER}, "stage 1 learns from no other network"),
        ({"network_g": {"type": "HAT", **SMALL["HAT"]}}, "network_g.type: HAT is not DiffIR"),
        ({"train": {"prior": {"kd_l1_weight": 0, "encoder_iter": 1}}}, "needs a loss on the prior"),
        ({"train": {"prior": {"encoder_itr": 1}}}, "encoder_itr"),
    ],
)
def test_what_cannot_be_trained_is_named(change, message, taught):
    opt = options(taught)
    for key, value in change.items():
        opt[key] = opt[key] | value if key in ("path", "train") else value
    network = build_network(copy.deepcopy(opt["network_g"]))
    with pytest.raises(OptionsError, match=message):
        rehearsing(opt).rehearse(network)


def rehearsing(opt, cls=DiffIRModel):
    made = cls.__new__(cls)
    made.opt, made.is_train, made.device = {**opt, "is_train": True}, True, torch.device("cpu")
    return made


def test_a_scaler_needs_gradients_of_the_discriminator(taught, monkeypatch):
    narrow_vgg(monkeypatch)
    opt = options(taught, DiffIRGANModel, amp="fp16", prior={"encoder_iter": 1})
    with pytest.raises(OptionsError, match=r"train\.amp: fp16 scales gradients"):
        rehearsing(opt, DiffIRGANModel).rehearse(build_network(dict(STUDENT)))
