"""LoRA layers in training: how they begin, what they compute, and the names of their weights."""

from copy import deepcopy

import pytest
import torch
from torch import nn
from vector_tools import fill

from cir_diffusion import lora
from cir_diffusion.lora_layers import add_lora, layers_with_lora, without_lora

LAYERS = {
    "linear": (nn.Linear(6, 5), (2, 6)),
    "conv": (nn.Conv2d(4, 6, 3, padding=1), (2, 4, 8, 8)),
    "strided": (nn.Conv2d(4, 6, 3, stride=2), (2, 4, 9, 9)),
    "pointwise": (nn.Conv2d(4, 6, 1), (2, 4, 5, 5)),
}
RANK = 3


def changed(layer):
    """A network with one layer in it, before and after, with random factors."""
    before = nn.Sequential(nn.Identity(), deepcopy(layer))
    after = deepcopy(before)
    add_lora(after, ["1"], RANK, lambda name: f"default_{name}")
    after.load_state_dict(fill(after.state_dict()))
    before[1].load_state_dict(after[1].base_layer.state_dict())
    return before, after


@pytest.mark.parametrize(("layer", "shape"), LAYERS.values(), ids=LAYERS)
def test_computes_what_merging_gives(layer, shape):
    """Which the vectors of CODiff prove, with scale and names."""
    merged, after = changed(layer)
    x = torch.randn(shape)
    assert not torch.allclose(after(x), merged(x), atol=1e-3)
    lora.merge(merged, lora.low_rank_changes(after.state_dict(), "here"), "here")
    torch.testing.assert_close(after(x), merged(x))


def test_the_layer_is_itself_without_the_change_and_at_the_start():
    before, after = changed(nn.Linear(6, 5))
    x = torch.randn(3, 6)
    with without_lora(after):
        assert torch.equal(after(x), before(x))
    assert not torch.equal(after(x), before(x))
    fresh = deepcopy(before)
    add_lora(fresh, ["1"], RANK, str)
    assert torch.equal(fresh(x), before(x))


def test_factors_begin_as_in_the_release():
    network = nn.Sequential(nn.Linear(3000, 10))
    add_lora(network, ["0"], 8, lambda _: "default_others")
    down, up = (network.state_dict()[f"0.lora_{f}.default_others.weight"] for f in "AB")
    assert down.std().item() == pytest.approx(1 / 8, rel=0.05)
    assert not up.any()


def test_only_the_factors_are_trained():
    _, after = changed(nn.Conv2d(4, 6, 3, padding=1))
    after(torch.randn(1, 4, 8, 8)).square().sum().backward()
    graded = {name for name, p in after.named_parameters() if p.grad is not None and p.grad.any()}
    assert graded == {"1.lora_A.default_1.weight", "1.lora_B.default_1.weight"}
    assert layers_with_lora(after) == ["1"]
