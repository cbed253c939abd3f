"""LPIPS and DISTS: never downloaded, named where missing, and right in kind where present."""

import numpy as np
import pytest
import torch
from basicsr.losses import build_loss
from basicsr.metrics import calculate_metric
from command_tools import train_options
from training_tools import batch, model, step
from vgg_tools import empty_cache, untrained_network_of

import cir_model  # noqa: F401
from cir_host.errors import OptionsError, UserError
from cir_host.rehearsal import model_without_networks
from cir_model.metrics import perceptual

pytest.importorskip("torchmetrics")

LOSSES = {"lpips": "LPIPSLoss", "dists": "DISTSLoss"}


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """PyTorch's cache in an empty folder."""
    perceptual._network.cache_clear()
    yield empty_cache(monkeypatch, tmp_path)
    perceptual._network.cache_clear()


@pytest.mark.parametrize("metric", ["lpips", "dists"])
def test_a_missing_network_is_named_and_not_downloaded(metric, cache):
    image = np.zeros((32, 32, 3), np.uint8)
    file = perceptual.METRICS[metric][1]
    with pytest.raises(UserError, match=rf"{metric}: {file} is not in .*torchvision"):
        calculate_metric({"img": image, "img2": image}, {"type": f"calculate_{metric}"})
    assert perceptual.available() == []


def test_a_missing_package_is_named(cache, monkeypatch):
    monkeypatch.setattr(perceptual, "find_spec", lambda name: None)
    assert "basicsr-cir[metrics]" in perceptual.lacking("lpips")


@pytest.mark.parametrize("metric", ["lpips", "dists"])
def test_distances_grow_with_the_difference(metric, cache, monkeypatch):
    """With random networks of the right shape, whose distance is one all the same."""
    untrained_network_of(metric, monkeypatch, cache)
    assert perceptual.available() == [metric]
    rng = np.random.default_rng(0)
    image = rng.integers(60, 190, (48, 64, 3), dtype=np.uint8)
    noisy = [np.uint8(image + rng.integers(-n, n, image.shape)) for n in (10, 60)]
    options = {"type": f"calculate_{metric}"}
    same, near, far = (
        calculate_metric({"img": other, "img2": image}, dict(options)) for other in (image, *noisy)
    )
    assert same == pytest.approx(0, abs=1e-4)
    assert same < near < far
    grey = calculate_metric({"img": image[..., 0], "img2": image[..., 0]}, dict(options))
    assert grey == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize(("metric", "loss"), LOSSES.items())
def test_the_loss_is_the_metric_and_has_gradients(metric, loss, cache, monkeypatch):
    """Also outside [0, 1], where outputs may lie in training; the network itself is not trained."""
    untrained_network_of(metric, monkeypatch, cache)
    rng = np.random.default_rng(0)
    pair = rng.integers(0, 256, (2, 48, 64, 3), dtype=np.uint8)
    wanted = calculate_metric({"img": pair[0], "img2": pair[1]}, {"type": f"calculate_{metric}"})
    output, gt = torch.tensor(pair[..., ::-1].copy()).permute(0, 3, 1, 2).float() / 255
    loss = build_loss({"type": loss, "loss_weight": 0.5}).train()
    assert float(loss(output[None], gt[None])) == pytest.approx(0.5 * wanted, rel=1e-5)
    batch_of_two = torch.stack([output, gt]), torch.stack([gt, gt])
    assert float(loss(*batch_of_two)) == pytest.approx(0.25 * wanted, rel=1e-5)
    output = (2 * output[None] - 0.5).requires_grad_()
    loss(output, gt[None]).backward()
    assert output.grad.any()
    assert not any(parameter.requires_grad for parameter in loss.parameters())


@pytest.mark.parametrize(("metric", "loss"), LOSSES.items())
def test_the_loss_is_one_of_several_in_training(metric, loss, cache, monkeypatch):
    untrained_network_of(metric, monkeypatch, cache)
    made = model(losses={metric: {"type": loss}})
    step(made, batch(size=32))
    assert {"l_pix", f"l_{metric}"} <= made.log_dict.keys()


@pytest.mark.parametrize("metric", LOSSES)
def test_a_missing_network_of_a_validation_is_named_before_the_training(metric, cache):
    opt = train_options(is_train=True, dist=False, rank=0, world_size=1)
    opt["val"]["metrics"]["seen"] = {"type": f"calculate_{metric}", "better": "lower"}
    file = perceptual.METRICS[metric][1]
    with pytest.raises(OptionsError, match=rf"^val\.metrics\.seen: {file} is not in"):
        model_without_networks(opt).rehearse(torch.nn.Conv2d(3, 3, 1))


@pytest.mark.parametrize(("metric", "loss"), LOSSES.items())
def test_a_missing_network_of_the_loss_is_named(metric, loss, cache):
    file = perceptual.METRICS[metric][1]
    with pytest.raises(UserError, match=rf"{loss}: {file} is not in .*torchvision"):
        build_loss({"type": loss})
