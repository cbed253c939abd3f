"""CODiff against the outputs of the authors' code, and what those do not show."""

import math

import numpy as np
import pytest
import torch
from diffusion_tools import SCHEDULE, tiny_base, tiny_cave_encoder, tiny_codiff
from vector_tools import image, vectors

from cir_diffusion.base import Base
from cir_diffusion.codiff import CODiff
from cir_diffusion.color_alignment import adain
from cir_diffusion.latent_tiles import LatentTiles
from cir_diffusion.noise_schedule import NoiseSchedule
from cir_host.errors import UserError

pytest.importorskip("diffusers")
VECTORS = vectors("codiff_tiny")


def seeded(seed, *shape):
    generator = np.random.Generator(np.random.PCG64(seed))
    return torch.from_numpy(generator.standard_normal(shape).astype(np.float32))


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.no_grad():
        yield


@pytest.fixture(scope="module")
def tiny():
    return tiny_codiff()


@pytest.fixture
def codiff(tiny):
    """The tiny network, whose settings a test may change."""
    settings = dict(vars(tiny))
    yield tiny
    vars(tiny).update(settings)


def generated(codiff, vector, noise=None):
    return codiff.generate(vector.input, codiff.tokens(vector.input), noise)


def output_of(codiff, vector):
    """What we compute for the call of a vector."""
    x = vector.input
    call, *numbers = vector.call.split("_")
    if call == "mean":
        return generated(codiff, vector)
    if call == "sample":
        latents = (side // 8 for side in x.shape[-2:])
        return generated(codiff, vector, seeded(vector.seed + 1000, len(x), 4, *latents))
    if call == "tokens":
        return codiff.cave.embed_unpadded(x)
    if call == "latent":
        return codiff.latent(x)
    if call == "eps":
        return codiff.predicted_noise(codiff.latent(x), codiff.tokens(x))
    if call in ("adain", "wavelet"):
        codiff.align = call
        return codiff(x)
    if call == "tiled":  # the UNet alone
        latent, tiles = codiff.latent(x), LatentTiles(*map(int, numbers))
        noise = codiff.predicted_noise(latent, codiff.tokens(x), tiles)
        return codiff.image(codiff.denoised(latent, noise))
    assert call == "osediff"
    base = Base(codiff.unet, codiff.vae, SCHEDULE)
    other = CODiff(base, codiff.cave, codiff.proj, timestep=999)
    return other.generate(x, seeded(vector.seed + 2000, 1, 77, 48))


@pytest.mark.parametrize("vector", VECTORS, ids=lambda v: f"{v.call}_{len(v.input)}")
def test_gives_the_output_of_the_authors_code(codiff, vector):
    assert vector.deviation(output_of(codiff, vector)) <= 1


@pytest.mark.parametrize(
    "step, signal", [(199, 0.7552380562), (499, 0.2776694298), (999, 0.0046600951)]
)
def test_the_signal_that_is_left_after_a_step(step, signal):
    assert SCHEDULE.signal(step) == pytest.approx(signal, abs=3e-8)


def test_the_noise_schedule_is_that_of_the_base(codiff):
    other = NoiseSchedule(0.001, 0.02, 1000)
    codiff.schedule = other
    latent, noise = torch.ones(1), torch.zeros(1)
    assert codiff.denoised(latent, noise).item() == pytest.approx(other.signal(499) ** -0.5)
    assert other.signal(499) < 0.9 * SCHEDULE.signal(499)


def test_the_scaling_factor_is_that_of_the_vae(codiff):
    plain = CODiff(tiny_base(), codiff.cave, codiff.proj)
    base = tiny_base()
    base.vae.register_to_config(scaling_factor=0.5)
    other = CODiff(base, codiff.cave, codiff.proj)
    latent = plain.latent(image(32, 32))
    wider = latent * (0.5 / 0.18215)
    torch.testing.assert_close(other.latent(image(32, 32)), wider)
    torch.testing.assert_close(other.image(wider), plain.image(latent), rtol=1e-4, atol=1e-5)


def test_the_noise_is_removed_in_float32(codiff):
    latent, noise = torch.full((1,), 1000.0).half(), torch.full((1,), 1100.0).half()
    denoised = codiff.denoised(latent, noise)
    assert denoised.dtype == torch.float32
    assert denoised.item() == pytest.approx(1.897737 * 1000 - 1.612887 * 1100, abs=0.01)


@pytest.mark.parametrize("height, width", [(1, 1), (20, 45), (33, 70)])
def test_images_of_any_size_are_padded_and_cut_back(codiff, height, width):
    codiff.align = "none"
    x = image(height, width)
    padded = torch.nn.functional.pad(
        x,
        (0, max(-width % 8, 32 - width), 0, max(-height % 8, 32 - height)),
        mode="replicate",
    )
    wanted = codiff.generate(padded, codiff.tokens(padded))[..., :height, :width]
    torch.testing.assert_close(codiff(x), wanted, rtol=0, atol=0)
    codiff.align = "adain"
    torch.testing.assert_close(codiff(x), adain(wanted, x), rtol=0, atol=0)
    assert codiff(x).isfinite().all()


def test_a_batch_gives_what_single_images_give(codiff):
    images = image(40, 32, batch=3)
    singly = torch.cat([codiff(single[None]) for single in images])
    torch.testing.assert_close(codiff(images), singly, rtol=1e-4, atol=1e-4)


def test_colours_are_aligned_over_the_whole_image(codiff):
    x = image(40, 96) * torch.linspace(0, 1, 96)  # whose parts differ in brightness
    tiles = LatentTiles(5, 1)
    generated = codiff.generate(x, codiff.tokens(x), tiles=tiles)
    torch.testing.assert_close(codiff(x, tile=40, overlap=8), adain(generated, x), rtol=0, atol=0)
    assert not torch.equal(generated, codiff.generate(x, codiff.tokens(x)))  # tiles were used


def test_every_tile_gets_the_tokens_of_the_whole_image(codiff, monkeypatch):
    contexts = []
    forward = codiff.unet.forward

    def noted(latent, step, encoder_hidden_states):
        contexts.append((latent.shape[-1], encoder_hidden_states))
        return forward(latent, step, encoder_hidden_states=encoder_hidden_states)

    monkeypatch.setattr(codiff.unet, "forward", noted)
    x = image(32, 96)
    codiff(x, tile=32)
    assert [width for width, _ in contexts] == [4] * len(contexts)
    assert len(contexts) > 2
    for _, context in contexts:
        assert torch.equal(context, codiff.tokens(x))


def test_the_strength_is_a_share_of_the_result(codiff):
    x = image(32, 32)
    whole = codiff(x)
    torch.testing.assert_close(codiff(x, strength=0.25), 0.75 * x + 0.25 * whole)
    assert torch.equal(codiff(x, strength=0), x)


def test_a_seed_samples_the_latent_reproducibly(codiff):
    x = image(32, 40)
    mean = codiff(x)
    codiff.seed = 1
    first, again = codiff(x), codiff(x)
    codiff.seed = 2
    assert torch.equal(first, again)
    assert not torch.equal(first, mean)
    assert not torch.equal(first, codiff(x))


def test_the_tokens_stay_in_float32(codiff):
    x = image(32, 32)
    with torch.autocast("cpu", torch.bfloat16):
        inside = codiff.tokens(x)
    assert torch.equal(inside, codiff.tokens(x))


def test_other_channels_are_refused(codiff):
    with pytest.raises(UserError, match="CODiff: the network takes images of 3 channels"):
        codiff(torch.zeros(1, 1, 32, 32))


def test_the_embedding_is_neither_cropped_nor_padded():
    cave = tiny_cave_encoder()
    tokens = cave.embed_unpadded(image(40, 72))
    assert tokens.shape == (1, 2, 32)
    assert not torch.allclose(tokens, cave.embed_unpadded(image(40, 72)[..., :32, :64]), atol=0.1)
    assert cave(image(40, 72)).shape[1] == math.ceil(40 / 32) * math.ceil(72 / 32)
