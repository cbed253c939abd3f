"""LPIPS and DISTS: never downloaded, named where missing, and right in kind where present."""

import numpy as np
import pytest
import torch
import torchvision
from basicsr.metrics import calculate_metric

import cir_model  # noqa: F401
from cir_host.errors import UserError
from cir_model.metrics import perceptual

pytest.importorskip("torchmetrics")


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """PyTorch's cache in an empty folder."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    perceptual._network.cache_clear()
    yield tmp_path / "checkpoints"
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
    network, file = perceptual.METRICS[metric]
    real = getattr(torchvision.models, network)

    def untrained(weights=None):
        torch.manual_seed(0)
        with torch.device("meta"):
            outline = real()
        features = outline.features.to_empty(device="cpu")
        for layer in features:
            if isinstance(layer, torch.nn.Conv2d):
                torch.nn.init.kaiming_normal_(layer.weight)
                torch.nn.init.zeros_(layer.bias)
        return outline

    monkeypatch.setattr(torchvision.models, network, untrained)
    if metric == "dists":  # which took the function from torchvision on import
        monkeypatch.setattr("torchmetrics.functional.image.dists.vgg16", untrained)
    (cache / file).touch()
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
