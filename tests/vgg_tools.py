"""A narrow VGG19 with weights of its own in place of torchvision's, which are a download."""

from types import SimpleNamespace

import torch
from basicsr.archs import vgg_arch
from torchvision.models.vgg import cfgs, make_layers


def narrow_vgg(monkeypatch):
    """Let BasicSR's perceptual loss build the narrow network, the same weights each time."""

    def vgg19(pretrained):
        assert pretrained
        with torch.random.fork_rng(), torch.device("cpu"):
            torch.manual_seed(0)
            widths = [n if n == "M" else n // 16 for n in cfgs["E"]]
            return SimpleNamespace(features=make_layers(widths))

    monkeypatch.setattr(vgg_arch, "vgg", SimpleNamespace(vgg19=vgg19))
