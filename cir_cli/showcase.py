"""Photographs of scikit-image, compressed, restored, and shown side by side.

BasicSR requires scikit-image, so they are always available. None of them was used to train the
bundled weights.
"""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import numpy as np
from basicsr.metrics import calculate_psnr
from PIL import Image, ImageDraw

from cir_data.images.reading import read
from cir_model.restoring.inference import Restorer
from cir_model.restoring.pictures import restore_picture

Box = tuple[int, int, int, int]
"""Left, top, right, bottom."""

_CAPTION = 22


@dataclass(frozen=True)
class Showpiece:
    """A photograph, and the part of it that is shown."""

    name: str
    """Name in ``skimage.data``, without suffix."""
    box: Box
    quality: int
    credit: str

    @property
    def path(self) -> Path:
        """The file of the photograph."""
        return photograph(self.name)


SHOWPIECES = (
    Showpiece("chelsea", (110, 60, 270, 180), 10, "Stéfan van der Walt, CC0"),
    Showpiece("coffee", (90, 110, 250, 230), 15, "Rachel Michetti, CC0"),
    Showpiece("astronaut", (150, 30, 310, 150), 20, "NASA, public domain"),
    Showpiece("astronaut", (300, 330, 460, 450), 10, "NASA, public domain"),
)
"""Photographs whose licence allows showing them anywhere."""


@dataclass(frozen=True)
class Shown:
    """A restored photograph, with its PSNR."""

    strip: Image.Image
    """JPEG, restored image and original, side by side."""
    before: float
    """PSNR of the whole JPEG in dB."""
    after: float


def photograph(name: str) -> Path:
    """Return the file of a photograph in ``skimage.data``."""
    return Path(str(files("skimage.data"))) / f"{name}.png"


def show(restorer: Restorer, piece: Showpiece, zoom: int = 2) -> Shown:
    """Compress a photograph as JPEG, restore it, and put parts of both beside the original."""
    with Image.open(piece.path) as image:
        original = image.convert("RGB")
    buffer = io.BytesIO()
    original.save(buffer, "JPEG", quality=piece.quality)
    jpeg = read(buffer.getvalue(), piece.name)
    restored = restore_picture(restorer, jpeg, 8)
    before, after = (Image.fromarray(p.samples) for p in (jpeg, restored))
    panels = {f"JPEG, quality {piece.quality}": before, "restored": after, "original": original}
    strip = side_by_side({title: p.crop(piece.box) for title, p in panels.items()}, zoom)
    before_db, after_db = (
        float(calculate_psnr(np.asarray(p), np.asarray(original), crop_border=0))
        for p in (before, after)
    )
    return Shown(strip, before_db, after_db)


def stacked(strips: Sequence[Image.Image]) -> Image.Image:
    """Stack strips vertically."""
    sheet = Image.new("RGB", (max(s.width for s in strips), sum(s.height for s in strips)), "white")
    top = 0
    for strip in strips:
        sheet.paste(strip, (0, top))
        top += strip.height
    return sheet


def side_by_side(panels: Mapping[str, Image.Image], zoom: int) -> Image.Image:
    """Put images of the same size side by side, enlarged without smoothing, with captions."""
    first = next(iter(panels.values()))
    width, height = zoom * first.width, zoom * first.height
    strip = Image.new("RGB", (width * len(panels), height + _CAPTION), "white")
    draw = ImageDraw.Draw(strip)
    for index, (title, panel) in enumerate(panels.items()):
        strip.paste(
            panel.resize((width, height), Image.Resampling.NEAREST), (index * width, _CAPTION)
        )
        draw.text((index * width + 6, 5), title, fill="black")
    return strip
