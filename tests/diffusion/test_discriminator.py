"""CODiff's discriminator: whose features it judges, and what of it is trained."""

import pytest
import torch
from diffusion_tools import tiny_base, write_outline
from torch import nn
from vector_tools import fill

from cir_diffusion.discriminator import SMALLEST_LATENT, TIMESTEP, CODiffDiscriminator

pytest.importorskip("diffusers")


def built(tiny_files, **arguments):
    torch.manual_seed(0)
    return CODiffDiscriminator(str(tiny_files.base), rank=2, **arguments)


def test_features_are_those_of_the_bases_middle(tiny_files):
    """At the start, when low-rank changes are still nothing."""
    network, unet, seen = built(tiny_files), tiny_base().unet, []
    unet.mid_block.register_forward_hook(lambda *a: seen.append(a[2]))
    latent = torch.randn(2, 4, 32, 32)
    with torch.no_grad():
        unet(latent, TIMESTEP, encoder_hidden_states=network.context.expand(2, -1, -1))
        assert torch.equal(network(latent), network.head(seen[0]))
    assert TIMESTEP == 199
    assert network(latent).shape == (2, 1, 2, 2)


def test_smallest_latent(tiny_files):
    network = built(tiny_files).eval()
    assert network(torch.randn(1, 4, SMALLEST_LATENT, SMALLEST_LATENT)).shape == (1, 1, 1, 1)
    with pytest.raises(RuntimeError):
        network(torch.randn(1, 4, SMALLEST_LATENT - 1, SMALLEST_LATENT))


def graded(network):
    network(torch.randn(1, 4, 32, 32)).square().sum().backward()
    return {name for name, p in network.named_parameters() if p.grad is not None and p.grad.any()}


def test_low_rank_changes_context_and_head_are_trained(tiny_files):
    network = built(tiny_files)
    network.load_state_dict(fill(network.state_dict()))
    trained = graded(network)
    assert trained == network.state_dict().keys()
    changes = {name for name in trained if ".lora_" in name}
    assert len(changes) == 238
    assert any("time_emb_proj" in name for name in changes)
    assert not any("conv_in" in name for name in changes)
    assert {name.partition(".")[0] for name in trained - changes} == {"context", "head"}


def test_the_release_trains_the_head_alone(tiny_files):
    network = built(tiny_files, frozen_features=True)
    latent = torch.randn(1, 4, 32, 32, requires_grad=True)
    network(latent).sum().backward()
    assert latent.grad is None
    network.zero_grad()
    assert graded(network) == network.state_dict().keys()
    assert all(name.startswith("head.") for name in network.state_dict())


def test_gradient_checkpointing_recomputes_blocks(tiny_files):
    gradients = []
    for recompute in (False, True):
        network, seen = built(tiny_files, use_checkpoint=recompute), []
        network.unet.down_blocks[0].resnets[0].register_forward_pre_hook(
            lambda *a, seen=seen: seen.append(1)
        )
        torch.manual_seed(1)
        network(torch.randn(1, 4, 32, 32)).sum().backward()
        assert len(seen) == 1 + recompute
        gradients.append(network.context.grad)
    torch.testing.assert_close(*gradients)


def test_the_head_of_the_real_size(tmp_path):
    write_outline(tmp_path / "base", tmp_path / "cave.pth")
    with torch.device("meta"):
        network = CODiffDiscriminator(str(tmp_path / "base"))
    assert sum(p.numel() for p in network.head.parameters()) == 52_477_441
    assert network.context.shape == (77, 1024)
    first, norm, activation, last = network.head
    assert (first.in_channels, last.in_channels, norm.num_groups) == (1280, 2560, 32)
    assert isinstance(activation, nn.SiLU)
