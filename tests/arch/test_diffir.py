"""DiffIR: what the common tests cannot see, stage 1 and the diffusion."""

import pytest
import torch
from basicsr.archs import build_network
from naive_forms import NAIVE
from network_tools import gradients, restore
from small_networks import SMALL
from vector_tools import fill, image

from cir_arch import load_network, recognise
from cir_arch.diffir_arch import diffusion_steps
from cir_host.errors import UserError
from cir_model.restoring.inference import Restorer
from cir_model.restoring.settings import InferenceOptions

FIRST = [0.941715, -1.396578]
"""The default noise begins with these."""


def build(**arguments):
    torch.manual_seed(0)
    return build_network({"type": "DiffIR", **SMALL["DiffIR"], **arguments}).eval()


def test_the_diffusion_has_the_published_numbers():
    kept, steps = diffusion_steps(4, 0.1, 0.99)
    assert kept == pytest.approx(0.9 * (1 - 0.294286) * (1 - 0.590952) * 0.01, rel=1e-5)
    assert [a for a, _ in steps] == pytest.approx([1, 0.765187, 0.636270, 0.505927], abs=1e-6)
    assert [b for _, b in steps] == pytest.approx([0, 0.230246, 0.315256, 0.074212], abs=1e-6)


@pytest.mark.parametrize("stage", [1, 2])
@pytest.mark.parametrize("scale", [1, 2, 4])
def test_other_scales_and_stages_are_those_of_the_naive_form(scale, stage):
    """In float64, so that GELU's tanh form shows; with a denoiser of other depth."""
    sizes = {"scale": scale, "stage": stage, "n_denoise_res": 2}
    network, naive = build(**sizes), NAIVE["DiffIR"](**{**SMALL["DiffIR"], **sizes})
    weights = fill(network.state_dict())
    for model in (network, naive):
        model.load_state_dict(weights)
        model.double().eval()
    size = 32 // scale
    x = image(size, 2 * size, seed=1, batch=2).double()
    gt = image(32, 64, seed=2, batch=2).double()
    inputs = {"gt": gt} if stage == 1 else {"noise": torch.randn(2, 32).double()}
    found, expected = network(x, **inputs), naive(x, **inputs)
    assert found.shape == gt.shape
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)
    theirs = gradients(naive, x, **inputs)
    for name, gradient in gradients(network, x, **inputs).items():
        torch.testing.assert_close(gradient, theirs[name], rtol=1e-8, atol=1e-8, msg=name)


@pytest.mark.parametrize("container", ["params_ema", None])
def test_a_file_of_the_release_holds_the_diffusion_twice(container, tmp_path):
    network = build()
    state = network.state_dict()
    again = {
        "diffusion." + name.replace("denoise", "model"): torch.zeros_like(value)
        for name, value in state.items()
        if not name.startswith("G.")
    }
    whole = {**again, **state, "diffusion.betas": torch.ones(4)}
    path = tmp_path / "net.pth"
    torch.save({container: whole} if container else whole, path)
    assert recognise(whole) == recognise(state)
    x = image(20, 33)
    assert torch.equal(restore(load_network(path), x), restore(network, x))
    build().load_state_dict(whole)  # strict
    with pytest.raises(RuntimeError, match=r"Unexpected key.*diffusion\.betas"):
        build(stage=1).load_state_dict({**build(stage=1).state_dict(), "diffusion.betas": x})


def test_every_network_starts_from_the_same_noise():
    first, second = build(), build()
    torch.manual_seed(3)
    x = image(40, 40)
    assert torch.equal(restore(first, x), restore(second, x))
    assert torch.equal(restore(first, x, noise=first.noise), restore(second, x))
    assert first.noise.std() == pytest.approx(1, abs=0.2)
    assert first.noise[0, :2].tolist() == pytest.approx(FIRST, abs=1e-6)
    assert not torch.equal(restore(first, x, noise=-first.noise), restore(second, x))


def test_a_prior_restores_alike_in_both_ways():
    x, gt = image(37, 50), image(37, 50, seed=1)
    for network, inputs in ((build(stage=1), {"gt": gt}), (build(), {})):
        with torch.inference_mode():
            out, prior = network(x, **inputs, return_prior=True)
            assert prior.shape == (1, 32)
            assert torch.equal(network.prior_of(x, **inputs), prior)
        assert torch.equal(restore(network, x, prior=prior), out)
        assert not torch.allclose(restore(network, x, prior=2 * prior), out)


def test_tiles_have_priors_of_their_own_unless_one_is_given():
    network = build()
    x = image(64, 96)
    prior = network.prior_of(x).detach()
    tiles = Restorer([network], InferenceOptions(tile=32, overlap=0, grid="none"))
    torch.testing.assert_close(tiles(x)[..., :32, :32], restore(network, x[..., :32, :32]))
    torch.testing.assert_close(
        tiles(x, prior=prior)[..., :32, :32], restore(network, x[..., :32, :32], prior=prior)
    )


def test_stage_1_pads_the_ground_truth_like_the_image():
    network = build(stage=1, scale=2)
    x, gt = image(11, 20), image(22, 40, seed=1)
    found = restore(network, x, gt=gt)
    pad = torch.nn.functional.pad
    whole = restore(
        network, pad(x, (0, 12, 0, 5), "reflect"), gt=pad(gt, (0, 24, 0, 10), "reflect")
    )
    assert torch.equal(found, whole[..., :22, :40])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"scale": 3}, "scale: 3 is unknown; give 1, 2 or 4"),
        ({"stage": 3}, "stage: 3 is unknown; give 1 or 2"),
        ({"timesteps": 0}, "timesteps: 0 steps are none"),
        ({"linear_start": 0.0}, "linear_start, linear_end: 0.0 and 0.99"),
        ({"linear_end": 0.01}, "linear_start, linear_end: 0.1 and 0.01"),
    ],
)
def test_arguments_that_make_no_network_are_named(arguments, message):
    with pytest.raises(UserError, match=message):
        build(**arguments)


@pytest.mark.parametrize(
    ("stage", "inputs", "message"),
    [
        (1, {}, "gt: stage 1 of DiffIR restores only with the ground truth or a prior"),
        (1, {"gt": image(8, 8)}, r"gt: a tensor of padded shape \(1, 3, 32, 32\) does not fit"),
        (1, {"noise": torch.zeros(1, 32)}, "noise: stage 1 has no diffusion"),
        (2, {"gt": image(40, 40)}, "gt: stage 2 restores without the ground truth"),
        (2, {"noise": torch.zeros(1, 8)}, r"noise: a tensor of shape \(1, 8\) .* \(1, 32\)"),
        (2, {"prior": torch.zeros(2, 32)}, r"prior: a tensor of shape \(2, 32\) does not fit 1"),
    ],
)
def test_inputs_that_do_not_fit_are_named(stage, inputs, message):
    with pytest.raises(UserError, match=message):
        build(stage=stage)(image(40, 40), **inputs)
