"""CODiff in training: what is trained, what its checkpoints hold, and what stays as it is."""

import json
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from diffusion_tools import RANKS, tiny_base, tiny_codiff, tiny_parts, write_outline
from vector_tools import FOLDER, image, parameter_count

from cir_diffusion.checkpoint import load_codiff
from cir_diffusion.codiff_lora import CODiffLoRA, state_of
from cir_host.errors import UserError

pytest.importorskip("diffusers")


def built(files, **arguments):
    return CODiffLoRA(str(files.base), str(files.cave), **{**RANKS, **arguments})


@pytest.fixture(scope="module")
def codiff(tiny_files):
    """With the weights of the vectors; no test changes them."""
    network = built(tiny_files)
    network.load_state_dict(state_of(tiny_parts()))
    return network.eval()


@pytest.fixture(scope="module")
def outline(tmp_path_factory):
    """The real size, without weights."""
    folder = tmp_path_factory.mktemp("outline")
    write_outline(folder / "base", folder / "cave.pth")
    with torch.device("meta"):
        return CODiffLoRA(str(folder / "base"), str(folder / "cave.pth"))


def test_the_real_size_has_the_published_shapes(outline):
    published = json.loads((FOLDER / "codiff_tiny.keys.json").read_text())["published"]
    state = outline.state_dict()
    shapes = [list(value.shape) for value in state.values()]
    assert sorted(shapes) == sorted(published["shapes"])
    trained = [p for p in outline.parameters() if p.requires_grad]
    assert sum(p.numel() for p in trained) == published["parameters"] == 18_237_424
    lora = sum(value.numel() for name, value in state.items() if ".lora_" in name)
    assert parameter_count(outline.unet) + parameter_count(outline.vae) == (
        865_910_724 + 83_653_863 + lora
    )


@torch.no_grad()
def test_restores_as_the_merged_network_does(codiff):
    x = image(40, 72, 3)
    torch.testing.assert_close(codiff(x), tiny_codiff()(x), atol=1e-4, rtol=0)


@torch.no_grad()
def test_training_gets_the_image_as_it_is_generated_and_its_latent(codiff):
    x = image(64, 32, 3, 2)
    output, latent = codiff(x, return_latent=True)
    assert torch.equal(output, codiff.generate(x, codiff.tokens(x)))
    assert latent.shape == (2, 4, 8, 4)
    assert torch.equal(codiff.image(latent), output)


@torch.no_grad()
def test_the_latent_is_sampled_if_the_options_say_so(codiff):
    sampling = deepcopy(codiff)
    sampling.sample = True
    x = image(64, 32, 3)
    torch.manual_seed(5)
    found, _ = sampling(x, return_latent=True)
    torch.manual_seed(5)
    noise = torch.randn(1, 4, 8, 4)
    assert torch.equal(found, codiff.generate(x, codiff.tokens(x), noise))
    assert not torch.equal(found, codiff(x, return_latent=True)[0])


def test_the_first_layer_the_projection_and_low_rank_changes_are_trained(codiff):
    network = deepcopy(codiff).train()
    output, _ = network(image(64, 64, 3), return_latent=True)
    output.square().mean().backward()
    named = dict(network.named_parameters())
    graded = {name for name, p in named.items() if p.grad is not None and p.grad.any()}
    assert graded == state_of(tiny_parts()).keys()
    assert network.unet.training
    assert not network.cave.training


def test_gradient_checkpointing_changes_no_gradient(codiff, tiny_files):
    recomputing = built(tiny_files, use_checkpoint=True)
    recomputing.load_state_dict(codiff.state_dict())
    gradients = []
    for network, passes in ((deepcopy(codiff), 1), (recomputing, 2)):
        seen = {"unet": 0, "vae": 0}
        for part, layer in (("unet", "up_blocks.0.resnets.0"), ("vae", "decoder.mid_block")):

            def count(*_, part=part, seen=seen):
                seen[part] += 1

            getattr(network, part).get_submodule(layer).register_forward_pre_hook(count)
        network.train()(image(32, 32, 3), return_latent=True)[0].square().mean().backward()
        assert seen == {"unet": passes, "vae": passes}
        gradients.append({n: p.grad for n, p in network.named_parameters() if p.requires_grad})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, msg=name)


def test_the_ground_truth_is_encoded_by_the_base(codiff):
    x, vae = image(64, 32, 3), tiny_base().vae
    torch.manual_seed(5)
    found = codiff.latent_by_base(x)
    torch.manual_seed(5)
    with torch.no_grad():
        posterior = vae.encode(2 * x - 1).latent_dist
        wanted = 0.18215 * (posterior.mean + posterior.std * torch.randn(1, 4, 8, 4))
    torch.testing.assert_close(found, wanted)
    with torch.no_grad():
        assert not torch.allclose(found, codiff.latent(x), atol=0.1)


def test_a_copy_shares_what_is_frozen_and_nothing_else(codiff):
    copy = deepcopy(codiff)
    own = codiff.state_dict().keys()
    copies = dict(copy.named_parameters())
    for name, parameter in codiff.named_parameters():
        assert (copies[name] is parameter) == (name not in own), name
        assert torch.equal(copies[name], parameter)
    assert copy.state_dict().keys() == own


def test_a_checkpoint_is_one_of_the_release(codiff, tiny_files, tmp_path):
    entries = codiff.release_entries(codiff.state_dict())
    named = {key: entries[key] for key in entries if key.endswith("_modules")}
    assert {key: len(set(names)) for key, names in named.items()} == {
        "vae_lora_encoder_modules": 32,
        "unet_lora_encoder_modules": 94,
        "unet_lora_decoder_modules": 148,
        "unet_lora_others_modules": 16,
    }
    release = torch.load(tiny_files.pickle, weights_only=True)
    assert entries.keys() == release.keys()
    for key, names in named.items():
        assert set(names) == set(release[key]), key
    for key in ("rank_unet", "rank_vae"):
        assert entries[key] == release[key]
    for key in ("state_dict_unet", "state_dict_vae", "proj"):
        assert entries[key].keys() == release[key].keys()
        assert all(torch.equal(entries[key][name], value) for name, value in release[key].items())
    torch.save(entries, tmp_path / "codiff.pkl")
    read = load_codiff(tmp_path / "codiff.pkl", tiny_files.base, tiny_files.cave)
    x = image(32, 40, 3)
    with torch.no_grad():
        torch.testing.assert_close(read(x), codiff(x), atol=1e-4, rtol=0)


def test_files_that_are_missing_are_named(tiny_files, tmp_path):
    with pytest.raises(UserError, match="nowhere: no such folder"):
        CODiffLoRA("nowhere", str(tiny_files.cave))
    with pytest.raises(UserError, match=r"none\.pth: no such file"), torch.device("meta"):
        CODiffLoRA(str(tiny_files.base), str(Path(tmp_path) / "none.pth"))
