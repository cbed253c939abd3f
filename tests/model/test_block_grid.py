"""The block grid: found from pixels, at the corner for the network, and cut back exactly."""

import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from command_tools import photographs
from PIL import Image

from cir_arch import Identity
from cir_cli.main import main
from cir_data.images.metadata import Metadata
from cir_data.images.reading import Picture
from cir_data.images.writing import Encoding
from cir_model.restoring import block_grid, on_disk, pixel_quality
from cir_model.restoring.block_grid import block_offset, blocks_of
from cir_model.restoring.inference import Restorer
from cir_model.restoring.on_disk import restore_bytes
from cir_model.restoring.settings import InferenceOptions, RestoreOptions


@pytest.fixture(scope="module")
def photo(tmp_path_factory):
    folder = photographs(tmp_path_factory.mktemp("grid") / "photos", size=128)
    return Image.open(sorted(folder.iterdir())[0]).convert("RGB")


def tensor(image):
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)[None] / 255


def compressed(photo):
    file = io.BytesIO()
    photo.save(file, "JPEG", quality=40)
    return tensor(Image.open(file))


class MarkedBlocks(Identity):
    """Adds 2 at each block corner, and 1 at all other edges of blocks."""

    def forward(self, x):
        rows, columns = (torch.arange(side) % 8 for side in x.shape[-2:])
        top, left = (rows == 0) | (rows == 7), (columns == 0) | (columns == 7)
        return x + top[:, None] + left


@pytest.mark.parametrize("ensemble", ["none", "transpose", "flips", "x8"])
@pytest.mark.parametrize("tile", [None, 48])
def test_every_pass_has_the_blocks_at_the_corner(photo, ensemble, tile):
    image = compressed(photo)[..., 3:-2, 5:-7]
    options = InferenceOptions(self_ensemble=ensemble, tile=tile, overlap=16)
    added = Restorer([MarkedBlocks().eval()], options)(image) - image
    rows, columns = torch.arange(3, 126) % 8, torch.arange(5, 121) % 8
    expected = ((rows == 0) | (rows == 7)).float()[:, None] + ((columns == 0) | (columns == 7))
    assert torch.allclose(added, expected.expand_as(added), atol=1e-5)


def test_without_the_grid_the_image_is_left_as_it_is(photo):
    image = compressed(photo)[..., 3:, 5:]
    network = MarkedBlocks().eval()
    found = Restorer([network], InferenceOptions(grid="none"))(image)
    assert torch.equal(found, network(image))


def test_images_without_blocks_show_none(photo):
    ramp = torch.linspace(0, 1, 96).expand(1, 3, 80, 96)
    noise = torch.rand(1, 3, 96, 80, generator=torch.Generator().manual_seed(0))
    for image in (tensor(photo)[..., 3:, 5:], ramp, noise, torch.full_like(ramp, 0.5)):
        assert block_offset(image) is None
    assert block_offset(compressed(photo)[..., 3:, 5:]) == (5, 3)


class Scale4(Identity):
    """Enlarges four times, each pixel to 4 x 4 equal ones."""

    @property
    def facts(self):
        return replace(super().facts, scale=4)

    def forward(self, x):
        return x.repeat_interleave(4, -1).repeat_interleave(4, -2)


class Plain(torch.nn.Module):
    """A network without facts."""

    def forward(self, x):
        return x


@pytest.mark.parametrize("offset", [(5, 3), (7, 1)])
@pytest.mark.parametrize("size", [(9, 12), (1, 5)])
def test_small_images_enlarged_and_networks_without_facts(offset, size):
    image = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(1))
    options = InferenceOptions(self_ensemble="x8")
    larger = Restorer([Scale4().eval()], options)(image, offset)
    assert torch.allclose(larger, Scale4()(image), atol=1e-6)
    plain = Restorer([Plain().eval()], options)
    assert torch.allclose(plain(image, offset), image, atol=1e-6)
    assert plain.describe()["block grid"] == "not at the corner in 1 images, moved there"


def test_an_image_without_blocks_is_neither_searched_nor_extended(photo, monkeypatch):
    image = compressed(photo)[..., 3:, 5:]
    restorer = Restorer([MarkedBlocks().eval()], InferenceOptions(self_ensemble="flips"))
    monkeypatch.setattr(block_grid, "search", None)
    expected = Restorer(
        [MarkedBlocks().eval()], InferenceOptions(self_ensemble="flips", grid="none")
    )
    assert torch.equal(restorer(image, None), expected(image))
    assert "block grid" not in restorer.describe()


def test_a_whole_jpeg_is_not_changed_by_the_grid(photo):
    image = compressed(photo)
    network = MarkedBlocks().eval()
    restorer = Restorer([network], InferenceOptions())
    assert torch.equal(restorer(image, (0, 0)), network(image))
    assert torch.equal(restorer(image), network(image))
    assert "block grid" not in restorer.describe()


@pytest.mark.parametrize(("mode", "bits"), [("L", 8), ("RGB", 16), ("L", 16)])
def test_one_search_serves_the_quality_the_note_and_the_network(photo, mode, bits, monkeypatch):
    """Grey and 16-bit PNGs made from a JPEG."""
    file = io.BytesIO()
    photo.convert(mode).save(file, "JPEG", quality=40)
    samples = np.array(Image.open(file))[3:, 5:].astype(f"uint{bits}") * (257 if bits == 16 else 1)
    png = Encoding("png").encode(Picture(samples, None, Metadata()), "cut.png")
    searches, real = [], block_grid.search

    def counted(image):
        searches.append(image.shape)
        return real(image)

    for module in (block_grid, on_disk, pixel_quality):
        monkeypatch.setattr(module, "search", counted)
    seen = Restorer([MarkedBlocks().eval()], InferenceOptions())
    outcome = restore_bytes(png, "cut.png", "png", seen, RestoreOptions(force=True))
    assert outcome.note.endswith("blocks from row 5, column 3")
    assert len(searches) == 1
    assert "block grid" in seen.describe()
    rows, columns = torch.arange(3, 128) % 8, torch.arange(5, 128) % 8
    edges = ((rows == 0) | (rows == 7))[:, None] | ((columns == 0) | (columns == 7))
    white = outcome.after.samples == np.iinfo(f"uint{bits}").max
    assert white[edges.numpy()].all()  # MarkedBlocks adds 1 or more there
    assert not white[~edges.numpy()].all()


def test_validation_takes_the_blocks_that_a_jpeg_sample_states():
    offset = torch.tensor([[5, 3]])
    for codec in ("JPEG", "JPEG (Pillow 11, libjpeg-turbo 3)"):
        assert blocks_of({"codec": [codec], "block_offset": offset}) == (5, 3)
    for codec in ("JPEG XL (libjxl 0.11)", "PNG", "none"):
        assert blocks_of({"codec": [codec], "block_offset": offset}) == "search"
    assert blocks_of({}) == "search"


def test_a_cut_jpeg_is_restored_like_the_file(photo, tmp_path):
    """The bundled network, through the command: the file cut after it equals the cut file."""
    photo.save(tmp_path / "a.jpg", quality=40)
    Image.open(tmp_path / "a.jpg").crop((5, 3, 128, 128)).save(tmp_path / "cut.png")
    common = ["restore", "--no-consistency", "--strength", "0.6", "--tile", "0", "--force"]
    for name in ("a.jpg", "cut.png"):
        output = str(tmp_path / f"{name}.out.png")
        assert main([*common, str(tmp_path / name), "-o", output]) == 0
    whole = np.asarray(Image.open(tmp_path / "a.jpg.out.png")).astype(int)[3:, 5:]
    cut = np.asarray(Image.open(tmp_path / "cut.png.out.png")).astype(int)
    inside = np.s_[40:, 40:]  # the removed pixels were part of what the network saw
    assert np.abs(whole - cut)[inside].max() <= 1


def test_another_value_of_the_grid_is_refused(capsys):
    with pytest.raises(SystemExit):
        main(["restore", "a.png", "-o", "b.png", "--grid", "8"])
    assert "--grid" in capsys.readouterr().err
