"""Low-rank changes, and the layers of the published model that have them."""

import json

import pytest
import torch
from codiff import UNET, VAE
from torch import nn
from vector_tools import FOLDER

from cir_diffusion import lora
from cir_host.errors import UserError


def entries_of(network, layers, rank):
    """Shapes of the changes of a network's layers, by name without the adapter's."""
    modules = dict(network.named_modules())
    shapes = {}
    for name in layers:
        out, *rest = modules[name].weight.shape
        shapes[f"{name}.lora_A"] = [rank, *rest]
        shapes[f"{name}.lora_B"] = [out, rank, *[1] * (len(rest) - 1)]
    return shapes


def test_the_changed_layers_are_those_of_the_published_file():
    diffusers = pytest.importorskip("diffusers")
    with torch.device("meta"):
        unet = diffusers.UNet2DConditionModel(**UNET)
        vae = diffusers.AutoencoderKL(**VAE)
    facts = json.loads((FOLDER / "codiff_tiny.keys.json").read_text())
    published = dict(zip(facts["keys"], facts["published"]["shapes"], strict=True))
    of_unet = entries_of(unet, lora.layers_of_unet(unet), 16)
    of_vae = entries_of(vae, lora.layers_of_vae(vae), 16)
    ours = {
        **{f"state_dict_unet.{name}": shape for name, shape in of_unet.items()},
        **{f"state_dict_vae.{name}": shape for name, shape in of_vae.items()},
    }
    theirs = {
        name.rsplit(".", 2)[0]: shape for name, shape in published.items() if ".lora_" in name
    }
    assert ours == theirs
    assert sum(p.numel() for p in unet.parameters()) == 865_910_724
    assert sum(p.numel() for p in vae.parameters()) == 83_653_863


@pytest.mark.parametrize(
    "layer", [nn.Linear(6, 5), nn.Conv2d(6, 5, 3, stride=2, padding=1), nn.Conv2d(6, 5, 1)]
)
@torch.no_grad()
def test_a_merged_layer_equals_the_layer_and_its_change_side_by_side(layer):
    rank = 2
    linear = isinstance(layer, nn.Linear)
    down_shape = (rank, *layer.weight.shape[1:])
    down, up = torch.randn(down_shape), torch.randn(5, rank, *() if linear else (1, 1))
    x = torch.randn(2, 6) if linear else torch.randn(2, 6, 7, 8)
    if linear:
        changed = x @ down.T @ up.T
    else:
        inner = nn.functional.conv2d(x, down, stride=layer.stride, padding=layer.padding)
        changed = nn.functional.conv2d(inner, up)
    wanted = layer(x) + 8 / rank * changed
    state = {"0.lora_A.default.weight": down, "0.lora_B.default.weight": up}
    network = nn.Sequential(layer)
    lora.merge(network, lora.low_rank_changes(state, "file"), "file")
    torch.testing.assert_close(network(x), wanted, rtol=1e-4, atol=1e-4)


def changes(**shapes):
    return {f"0.lora_{name}.default.weight": torch.zeros(shape) for name, shape in shapes.items()}


@pytest.mark.parametrize(
    "state, line",
    [
        (changes(A=(2, 6)), "file: 0 in it has only one of lora_A and lora_B"),
        (changes(A=(2, 6), B=(5, 3)), "file: lora_A and lora_B of 0 in it differ in rank"),
        (
            changes(A=(2, 7), B=(5, 2)),
            "file: 0 is 5x7 in it and 5x6 in the base's Sequential;"
            " give the base that it was trained on",
        ),
    ],
)
def test_changes_that_do_not_fit(state, line):
    with pytest.raises(UserError) as caught:
        lora.merge(nn.Sequential(nn.Linear(6, 5)), lora.low_rank_changes(state, "file"), "file")
    assert str(caught.value) == line


def test_a_layer_that_the_network_lacks_is_named():
    found = lora.low_rank_changes(changes(A=(2, 6), B=(5, 2)), "file")
    with pytest.raises(UserError, match="file: Identity has no 0; give another base"):
        lora.merge(nn.Identity(), found, "file")
