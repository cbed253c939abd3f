"""Networks with weights of their own in place of torchvision's, which are a download."""

from types import SimpleNamespace

import torch
import torchvision
from basicsr.archs import vgg_arch
from torchvision.models.vgg import cfgs, make_layers

from cir_model.metrics import perceptual


def narrow_vgg(monkeypatch):
    """Let BasicSR's perceptual loss build the narrow network, the same weights each time."""

    def vgg19(pretrained):
        assert pretrained
        with torch.random.fork_rng(), torch.device("cpu"):
            torch.manual_seed(0)
            widths = [n if n == "M" else n // 16 for n in cfgs["E"]]
            return SimpleNamespace(features=make_layers(widths))

    monkeypatch.setattr(vgg_arch, "vgg", SimpleNamespace(vgg19=vgg19))


def empty_cache(monkeypatch, folder):
    """Let PyTorch's cache lie in a folder, without files; return where they would be."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(folder))
    (folder / "checkpoints").mkdir()
    return folder / "checkpoints"


def untrained_network_of(metric, monkeypatch, cache):
    """Let LPIPS or DISTS find the network that it needs, with the same random weights each time."""
    network, file = perceptual.METRICS[metric]
    real = getattr(torchvision.models, network)

    def untrained(weights=None):
        with torch.device("meta"):
            outline = real()
        features = outline.features.to_empty(device="cpu")
        with torch.random.fork_rng():
            torch.manual_seed(0)
            for layer in features:
                if isinstance(layer, torch.nn.Conv2d):
                    torch.nn.init.kaiming_normal_(layer.weight)
                    torch.nn.init.zeros_(layer.bias)
        return outline

    monkeypatch.setattr(torchvision.models, network, untrained)
    if metric == "dists":  # which took the function from torchvision on import
        monkeypatch.setattr("torchmetrics.functional.image.dists.vgg16", untrained)
    (cache / file).touch()
