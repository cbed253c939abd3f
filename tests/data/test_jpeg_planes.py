"""The planes of coefficients that networks get of a JPEG file."""

import io

import numpy as np
import pytest
import torch
from PIL import Image
from vector_tools import FOLDER

from cir_arch.jdec_arch import _scaled
from cir_arch.layers.dct import dct_matrix
from cir_arch.layers.jpeg_planes import split
from cir_data.images.jpeg_coefficients import Component, JpegCoefficients, read_coefficients
from cir_data.images.jpeg_planes import planes_of, read_planes
from cir_host.errors import UserError

pytest.importorskip("jpeglib", reason="needs the extra [libjpeg]")


def smooth(height, width):
    """A picture with little detail, which no step of chroma between files changes much."""
    rows, columns = np.mgrid[:height, :width] / 12
    waves = [np.sin(rows), np.cos(columns + rows / 2), np.sin(columns / 2)]
    return np.asarray(128 + 90 * np.stack(waves, -1), np.uint8)


def jpeg(pixels, quality=95, **settings):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality, **settings)
    return file.getvalue()


def blocks_of(data):
    return split(torch.from_numpy(read_planes(data).planes)[None], "JDEC")


def samples(blocks):
    """Decode blocks (1, C, R, S, 8, 8) to samples around 128, (C, H, W)."""
    basis = dct_matrix()
    return (basis.T @ blocks @ basis).transpose(3, 4).flatten(4, 5).flatten(2, 3)[0] + 128


def test_planes_of_a_file_are_those_that_the_release_reads():
    with np.load(FOLDER / "jdec_file.npz") as stored:
        blocks = blocks_of(stored["jpeg"].tobytes())
        luma, chroma, tables = (torch.from_numpy(stored[key]) for key in ("y", "cbcr", "tables"))
    found = [blocks.luma.clamp(-1024, 1016), blocks.chroma.clamp(-1024, 1016), blocks.tables]
    for part, expected in zip(found, (luma, chroma, tables), strict=True):
        torch.testing.assert_close(_scaled(part), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("subsampling", ["4:2:0", "4:2:2", "4:4:4"])
@pytest.mark.parametrize("size", [(8, 8), (33, 40), (16, 100), (56, 24)])
def test_planes_hold_the_picture(size, subsampling):
    """Decoded, cut to the picture: luma exactly, chroma as that of half the picture."""
    pixels = smooth(*size)
    data = jpeg(pixels, subsampling=subsampling)
    read = read_planes(data)
    assert (read.height, read.width) == size
    assert bool(read.warning) == (subsampling != "4:2:0")
    blocks = split(torch.from_numpy(read.planes)[None], "JDEC")
    ycc = np.asarray(Image.open(io.BytesIO(data)).convert("YCbCr"), np.float32)
    height, width = size
    luma = samples(blocks.luma)[0, :height, :width].numpy()
    assert np.abs(luma - ycc[..., 0]).max() < 2.5
    even = ycc[: height // 2 * 2, : width // 2 * 2, 1:]
    halved = even.reshape(height // 2, 2, width // 2, 2, 2).mean((1, 3)).transpose(2, 0, 1)
    chroma = samples(blocks.chroma)[:, : height // 2, : width // 2].numpy()
    assert np.abs(chroma - halved).mean() < 1.5


def test_an_odd_block_is_mirrored():
    data = jpeg(smooth(24, 40), subsampling="4:4:4")
    luma = samples(blocks_of(data).luma)[0]
    assert luma.shape == (32, 48)
    torch.testing.assert_close(luma[24:], luma[16:24].flip(0))
    torch.testing.assert_close(luma[:, 40:], luma[:, 32:40].flip(1))


def test_chroma_at_the_full_resolution_is_reduced_by_the_low_frequencies():
    """As if the 16 x 16 DCT of the samples was cut and halved."""
    data = jpeg(smooth(48, 64), subsampling="4:4:4")
    _, cb, _ = read_coefficients(data).components
    whole = torch.from_numpy(cb.quantised * cb.steps.astype(np.float32))[None, None]
    square = samples(whole)[0, 16:32, 32:48] - 128
    basis = dct_matrix(16)
    expected = (basis @ square @ basis.T)[:8, :8] / 2
    torch.testing.assert_close(blocks_of(data).chroma[0, 0, 1, 2], expected, rtol=0, atol=1e-3)


def test_a_grey_file_has_no_chroma_and_one_table():
    blocks = blocks_of(jpeg(smooth(24, 24)[..., 0], quality=30))
    assert not blocks.chroma.any()
    assert blocks.luma.any()
    assert torch.equal(blocks.tables[0, 0], blocks.tables[0, 1])
    assert blocks.tables[0, 0, 0, 0] == 27  # 16 at quality 50


def test_tables_are_those_of_luma_and_chroma():
    tables = blocks_of(jpeg(smooth(16, 16), quality=50)).tables[0]
    assert tables[0, 0, :3].tolist() == [16, 11, 10]
    assert tables[0, :3, 0].tolist() == [16, 12, 14]  # rows are vertical frequencies
    assert tables[1, 0, :3].tolist() == [17, 18, 24]


@pytest.mark.parametrize(
    ("luma", "chroma", "message"),
    [((1, 1), (1, 4), "its chroma covers 4 pixels"), ((2, 1), (1, 1), "its luma is stored at")],
)
def test_other_samplings_are_refused(luma, chroma, message):
    block, steps = np.zeros((8, 8, 8, 8), np.int16), np.ones((8, 8), np.uint16)
    parts = tuple(Component(block, steps, *pixels) for pixels in (luma, chroma, chroma))
    with pytest.raises(UserError, match=message):
        planes_of(JpegCoefficients(32, 32, parts))
