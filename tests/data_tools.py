"""Images and data sets for the tests of cir_data."""

import io
from pathlib import Path

import cir_data  # noqa: F401 (makes BasicSR importable and registers the data sets)

# isort: split
import numpy as np
import PIL
from basicsr.data import build_dataset
from basicsr.utils.lmdb_util import make_lmdb_from_imgs
from PIL import Image

PILLOW = int(PIL.__version__.split(".")[0])
"""Its major version: 12 and 13 differ in what they read."""


def coordinate_image(height, width):
    """An image of at most 256 pixels a side whose red is the row and whose green is the column.

    A crop of it tells where it comes from, whatever was flipped; blue is noise.
    """
    rows, columns = np.mgrid[:height, :width]
    noise = np.random.default_rng(height * 1000 + width).integers(0, 256, (height, width))
    return np.stack([rows, columns, noise], axis=2).astype(np.uint8)


def smooth_image(height, width, channels=3, seed=0):
    """Smooth waves, as a photograph's shading: its JPEG shows its blocks."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:height, :width].astype(float)
    planes = []
    for _ in range(channels):
        waves = sum(
            np.sin(rows * rng.uniform(-0.15, 0.15) + columns * rng.uniform(-0.15, 0.15) + phase)
            for phase in rng.uniform(0, 6, 5)
        )
        planes.append(127.5 + 24 * waves)
    return np.stack(planes, axis=2).clip(0, 255).astype(np.uint8).squeeze()


def save(path: Path, image, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path, **options)
    return path


def encoded(image, file_format, **options):
    """The bytes of a file; the image is an array or Pillow's."""
    buffer = io.BytesIO()
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def plain_jpeg(image, quality, **settings):
    """The whole image through Pillow's JPEG, written without any of our code."""
    given = {} if quality is None else {"quality": quality}
    return np.array(Image.open(io.BytesIO(encoded(image, "JPEG", **given, **settings))))


def write_folder(folder: Path, sizes=((70, 90), (64, 64), (101, 57))):
    """Write coordinate images; return the folder as a string."""
    for i, size in enumerate(sizes):
        save(folder / f"{i}.png", coordinate_image(*size))
    return str(folder)


def write_lmdb(root: Path, contents):
    """Write images by key into an LMDB by BasicSR's own function; return its path as a string."""
    folder = root.with_suffix(".images")
    for key, image in contents.items():
        save(folder / f"{key}.png", image)
    paths = [f"{key}.png" for key in contents]
    make_lmdb_from_imgs(str(folder), str(root), paths, list(contents), map_size=1 << 24)
    return str(root)


def make(kind, phase="train", **options):
    """Build a data set as BasicSR does, from a section of options."""
    section = {"name": "T", "type": kind, "phase": phase, "scale": 1, "manual_seed": 5, **options}
    return build_dataset(section)


def to_uint8(tensor):
    """(C, H, W) in [0, 1] to (H, W, C), or to (H, W) for one channel."""
    image = (tensor.numpy().transpose(1, 2, 0) * 255).round().astype(np.uint8)
    return image[..., 0] if image.shape[2] == 1 else image


def first_boundary(coordinates):
    """The first 8 x 8 block boundary that a crop of a coordinate image shows, row and column.

    Found from the coordinates of its pixels alone: a boundary parts two pixels of different blocks.
    """
    crop = coordinates.astype(int) // 8
    blocks = crop[..., 0] * 1000 + crop[..., 1]
    row = next(k for k in range(9) if k == 8 or (blocks[k] != blocks[k + 1]).all()) + 1
    column = next(k for k in range(9) if k == 8 or (blocks[:, k] != blocks[:, k + 1]).all()) + 1
    return row % 8, column % 8
