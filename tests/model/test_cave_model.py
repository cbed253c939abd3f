"""``CaVEModel``: its formula, what it needs, and the quality error of a validation."""

import copy
import json

import pytest
import torch
from command_tools import photographs, train_options
from host_tools import run_here
from small_networks import SMALL
from training_tools import batch, step

import cir_data
from cir_host.errors import OptionsError, UserError
from cir_model import CaVEModel

DUAL = {"pixel_opt": {"type": "L1Loss", "loss_weight": 1000.0}, "quality_opt": {"type": "L1Loss"}}
QUALITY = torch.tensor([10, 35, 80, 100])


def options(network="CaVE", **train):
    opt = train_options(model_type="CaVEModel", network_g={"type": network, **SMALL[network]})
    opt["train"].update(copy.deepcopy({**DUAL, **train}))
    return opt


def model(network="CaVE", **train):
    opt = options(network, **train)
    opt.update(is_train=True, dist=False, rank=0, world_size=1)
    torch.manual_seed(0)
    return CaVEModel(opt)


def data(quality=QUALITY):
    return {**batch(size=32), "quality": quality}


def test_the_quality_of_every_scale_is_compared():
    """Tempest can return several; those of unknown quality are left out."""
    opt = options("Tempest")
    opt["network_g"]["quality_deep_loss"] = True
    opt.update(is_train=True, dist=False, rank=0, world_size=1)
    made = CaVEModel(opt)
    qualities = torch.tensor([10, -1, 80, 100])
    predicted = made.net_g(data()["lq"], return_quality=True)[1].detach()
    assert predicted.shape == (4, 4)
    log = step(made, data(qualities))
    known = qualities > 0
    wanted = 1 - qualities[known, None] / 100
    expected = (wanted - predicted[known]).abs().mean().item()
    assert log["l_quality"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("network", ["CaVE", "FBCNN"])
def test_the_loss_is_that_of_the_paper(network):
    made, plain = model(network), model(network)
    log = step(made, data())
    image, predicted = plain.net_g(data()["lq"], return_quality=True)
    of_quality = ((100 - QUALITY[:, None]) / 100 - predicted).abs().mean()
    of_image = 1000 * (image - data()["gt"]).abs().mean()
    assert log["l_quality"] == pytest.approx(of_quality.item(), rel=1e-5)
    assert log["l_pix"] == pytest.approx(of_image.item(), rel=1e-5)
    (of_quality + of_image).backward()
    gradients = [p.grad.flatten() for p in plain.net_g.parameters() if p.grad is not None]
    assert log["grad_norm"] == pytest.approx(torch.cat(gradients).norm().item(), rel=1e-4)


@pytest.mark.parametrize(
    ("left_out", "frozen", "still"),
    [
        ("pixel_opt", "^m_(body_decoder|up|tail)", "m_tail"),
        ("quality_opt", r"^qf_pred\.", "qf_pred"),
    ],
)
def test_explicit_or_implicit_learning_alone(left_out, frozen, still):
    made = model(**{left_out: None}, groups=[{"pattern": frozen, "freeze": True}])
    before = {name: p.clone() for name, p in made.net_g.named_parameters()}
    log = step(made, data())
    assert ("l_pix" in log, "l_quality" in log) == (
        left_out != "pixel_opt",
        left_out == "pixel_opt",
    )
    after = dict(made.net_g.named_parameters())
    assert all(torch.equal(v, after[n]) for n, v in before.items() if n.startswith(still))
    assert not torch.equal(before["m_head.weight"], after["m_head.weight"])


def test_teacher_forcing_restores_by_the_known_quality_and_else_by_the_prediction():
    made, plain = (model("FBCNN", teacher_forcing=forced) for forced in (True, False))
    for each in (made, plain):
        torch.nn.init.constant_(each.net_g.to_gamma_1[0].weight, 0.5)  # so that it matters
    qualities = torch.tensor([10, -1, 80, 100])
    sample = data(qualities)
    log = step(made, sample)
    with torch.no_grad():
        blind, predicted = plain.net_g(sample["lq"], return_quality=True)
        given = torch.where(qualities > 0, 1 - qualities / 100, predicted[:, 0])[:, None]
        image = plain.net_g(sample["lq"], given)
    assert not torch.allclose(image[0], blind[0], atol=1e-4)
    torch.testing.assert_close(image[1], blind[1])
    expected = 1000 * (image - sample["gt"]).abs().mean().item()
    assert log["l_pix"] == pytest.approx(expected, rel=1e-5)


def test_teacher_forcing_needs_qualities_and_a_network_that_takes_them():
    made = model()
    made.opt["train"] = options(teacher_forcing=True)["train"]
    with pytest.raises(
        OptionsError, match=r"train\.teacher_forcing: CaVE does not take the quality"
    ):
        made.rehearse(made.net_g)
    made = model("FBCNN", teacher_forcing=True, quality_opt=None)
    with pytest.raises(UserError, match=r"train\.teacher_forcing needs the quality of each sample"):
        for _ in range(20):
            step(made, data(torch.tensor([-1, -1, -1, -1])))


def test_what_cannot_be_learned_is_named():
    for quality in (torch.tensor([-1, -1, -1, -1]), None):
        sample = {k: v for k, v in data(quality).items() if v is not None}
        made = model()
        with pytest.raises(UserError, match="quality_opt needs the quality of each sample"):
            for _ in range(20):  # single batches may have none, if few samples lack it
                step(made, sample)
    made = model()
    with pytest.raises(OptionsError, match="ScaleOne predicts no quality"):
        made.rehearse(type("ScaleOne", (torch.nn.Module,), {})())
    with pytest.raises(OptionsError, match="one loss is needed"):
        model(pixel_opt=None, quality_opt=None)


def test_validation_tells_the_quality_error_of_each_set(tmp_path, monkeypatch):
    photographs(tmp_path / "photos")
    opt = options()
    opt["datasets"]["train"]["num_worker_per_gpu"] = 0
    held_out = opt["datasets"].pop("val")
    for quality in (1, 40):
        section = {**held_out, "name": f"q{quality}", "quality": quality}
        opt["datasets"][f"val_{quality}"] = section
    opt["train"] |= {"total_iter": 2, "scheduler": {**opt["train"]["scheduler"], "periods": [2]}}
    opt["val"] |= {"val_freq": 2, "save_img": False, "save_best": "qf_error"}
    opt["val"]["metrics"]["qf_error"] = {"type": "calculate_quality_error", "better": "lower"}
    run_here(monkeypatch, tmp_path, opt)
    run = tmp_path / "experiments/run"
    results = json.loads((run / "metrics.json").read_text())["data_sets"]
    network = model().net_g.eval()
    network.load_state_dict(torch.load(run / "models/net_g_best.pth")["params_ema"])
    for quality in (1, 40):
        section = {**opt["datasets"][f"val_{quality}"], "phase": "val", "scale": 1}
        found = results[f"q{quality}"]
        with torch.no_grad():
            errors = [
                abs(network.predict_quality(sample["lq"][None]).item() - quality)
                for sample in cir_data.JPEGRestorationDataset(section)
            ]
        assert found["mean"]["qf_error"] == {
            "output": pytest.approx(sum(errors) / len(errors), rel=1e-4)
        }
        assert found["undefined"] == {}
        assert "qf_error" not in found["protocol"]["measured on"]
