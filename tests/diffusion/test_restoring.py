"""How CODiff passes through :class:`cir_model.restoring.inference.Restorer`."""

import pytest
import torch
from diffusion_tools import tiny_codiff
from torch import nn
from vector_tools import image

from cir_arch import load_network
from cir_host.errors import UserError
from cir_model.restoring import memory
from cir_model.restoring.inference import Restorer
from cir_model.restoring.settings import InferenceOptions
from cir_weights import default_weights

pytest.importorskip("diffusers")


@pytest.fixture(scope="module")
def codiff():
    return tiny_codiff().requires_grad_(False)


def restorer(codiff, **options):
    return Restorer([codiff], InferenceOptions(**options))


def test_the_image_passes_as_it_is(codiff):
    """Not extended to the corner of a block, as it would be for other networks."""
    x = image(37, 50)
    assert torch.equal(restorer(codiff)(x, block_offset=(3, 5)), codiff(x))


def test_tiles_are_those_of_the_latents(codiff):
    x = image(64, 96)
    tiled = restorer(codiff, tile=48, overlap=16)
    assert torch.equal(tiled(x), codiff(x, tile=48, overlap=16))
    described = "tiles of 48 px, stride 32 (multiples of 16), blended over 16 px"
    assert tiled.describe()["inference"] == described
    assert not torch.equal(tiled(x), codiff(x))


def test_a_third_of_a_tile_overlaps_by_default(codiff):
    ((tiling, _),) = restorer(codiff, tile=768).plan(800, 900).items()
    assert (tiling.tile, tiling.overlap) == (768, 256)


def test_an_image_that_is_no_larger_than_a_tile_passes_whole(codiff):
    x = image(32, 96)
    assert torch.equal(restorer(codiff, tile=64)(x), codiff(x))


def test_tiles_come_only_where_memory_asks_for_them(codiff, monkeypatch):
    automatic = restorer(codiff, tile="auto")
    monkeypatch.setattr(memory, "bytes_per_pixel", lambda network, facts: 1000.0)
    monkeypatch.setattr(memory, "_free_memory", lambda: 1e12)
    assert automatic.plan(3000, 4000) == {None: 1}  # other networks get tiles from 768 x 768 on
    monkeypatch.setattr(memory, "_free_memory", lambda: 1e9)
    ((tiling, _),) = automatic.plan(1000, 4000).items()
    assert tiling.tile**2 * 1000 < 1e9


def test_the_precision_of_gpus_is_fp16(codiff):
    one = restorer(codiff, precision="auto")
    assert one.precision == "fp32"
    one.device = torch.device("cuda")
    assert one._precision("auto") == "fp16"
    both = Restorer([codiff, load_network(default_weights())], InferenceOptions(precision="auto"))
    both.device = torch.device("cuda")
    assert both._precision("auto") == "fp32"


class Overflows(nn.Module):
    """A decoder whose output is infinite in half precision."""

    def __init__(self, vae):
        super().__init__()
        self.vae, self.config = vae, vae.config
        self.precisions = []

    def encode(self, x):
        return self.vae.encode(x)

    def decode(self, x):
        half = torch.is_autocast_enabled("cpu")
        self.precisions.append(half)
        decoded = self.vae.decode(x)
        decoded.sample[0, 0, 0, 0] = torch.inf if half else 0
        return decoded


def test_what_overflows_is_repeated_in_float32(codiff):
    network = tiny_codiff()
    network.vae = Overflows(network.vae)
    halved = restorer(network, precision="bf16")
    restored = halved(image(32, 32))
    assert network.vae.precisions == [True, False]
    assert torch.equal(restored, network(image(32, 32)))
    assert halved.redone == 1


@pytest.mark.parametrize("dtype, levels", [(torch.float16, 0.4), (torch.bfloat16, 3)])
@torch.inference_mode()
def test_half_precision_is_close(dtype, levels, codiff):
    x = image(64, 64)
    with torch.autocast("cpu", dtype):
        halved = codiff(x)
    assert halved.dtype == torch.float32
    assert (halved - codiff(x)).abs().mean() < levels / 255


def test_the_winners_tiles_are_refused(codiff):
    with pytest.raises(UserError, match="tiling: ntire2024 cuts images into tiles, and CODiff"):
        restorer(codiff, tiling="ntire2024", tile=64)
