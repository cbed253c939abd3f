"""Photographs of scikit-image, compressed, restored, and shown side by side."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from basicsr.metrics import calculate_psnr
from PIL import Image, ImageDraw

from cir_data.images.photographs import Showpiece
from cir_data.images.reading import read
from cir_model.restoring.inference import Restorer
from cir_model.restoring.pictures import restore_picture

_CAPTION = 22


@dataclass(frozen=True)
class Shown:
    """A restored photograph, with its PSNR."""

    strip: Image.Image
    """JPEG, restored image and original, side by side."""
    before: float
    """PSNR of the whole JPEG in dB."""
    after: float


def show(restorer: Restorer, piece: Showpiece, zoom: int = 2) -> Shown:
    """Compress a photograph as JPEG, restore it, and put parts of both beside the original."""
    original = piece.original()
    jpeg = read(piece.jpeg(), piece.name)
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
