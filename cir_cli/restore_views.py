"""Comparisons: strips of before, after and difference, and a page with sliders."""

import base64
import html
import io
import os
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from cir_data.images.reading import Picture
from cir_data.images.writing import write_file

_PANEL = 480
"""Largest width and height of a panel in a strip."""

_CROP = 96
_ZOOM = 4
_CROPS = 2
_GAIN = 4
"""Factor by which the difference is magnified, around grey."""

_LARGEST_IN_PAGE = 1600


def write_comparison(path: Path, before: Picture, after: Picture) -> None:
    """Write before, after and difference side by side, whole and in the parts that differ most.

    Args:
        path: A PNG file.
        before: The input.
        after: The restored image. If it is larger, the input is enlarged for the comparison.
    """
    panels = _panels(before, after)
    rows = [[_fitted(panel) for panel in panels]]
    for box in _interesting(panels[0], panels[1]):
        rows.append([_zoomed(panel, box) for panel in panels])
    titles = ("before", "after", f"difference x {_GAIN}")
    buffer = io.BytesIO()
    _sheet(rows, titles).save(buffer, "PNG")
    write_file(path, buffer.getvalue())


class Report:
    """A page with all pairs of a batch in one file, images included.

    Args:
        path: The HTML file to write.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._sections: list[str] = []

    def add(self, name: str, note: str, before: Picture, after: Picture) -> None:
        """Add a pair; larger images are reduced to 1600 pixels."""
        first, second, _ = _panels(before, after)
        width, height = second.size
        shown = min(1.0, _LARGEST_IN_PAGE / max(width, height))
        size = (max(1, round(width * shown)), max(1, round(height * shown)))
        pictures = [
            _as_url(image.resize(size) if shown < 1 else image) for image in (first, second)
        ]
        # the page is UTF-8, but file names need not be
        shown_name = os.fsencode(name).decode("utf-8", "replace")
        caption = " · ".join(
            html.escape(part) for part in (shown_name, f"{width} × {height}", note) if part
        )
        self._sections.append(
            f'<figure><figcaption>{caption}</figcaption><div class="pair" style="--at:50%;'
            f'width:{size[0]}px;aspect-ratio:{size[0]}/{size[1]}">'
            f'<img src="{pictures[1]}" alt="after"><img class="before" src="{pictures[0]}"'
            ' alt="before"><span class="line"></span><span class="tag left">before</span>'
            '<span class="tag right">after</span><input type="range" min="0" max="100" value="50"'
            ' step="0.1" aria-label="before and after"></div></figure>'
        )

    def write(self) -> None:
        """Write the page, even without images."""
        count = len(self._sections)
        body = "\n".join(self._sections)
        text = _PAGE.replace("COUNT", f"{count} image{'' if count == 1 else 's'}")
        write_file(self.path, text.replace("BODY", body).encode())


_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Restored: COUNT</title>
<style>
body { margin: 2rem auto; max-width: 1640px; padding: 0 1rem; background: #181818; color: #ddd;
  font: 15px/1.5 system-ui, sans-serif; }
figure { margin: 0 0 2.5rem; }
figcaption { margin-bottom: .4rem; overflow-wrap: anywhere; }
.pair { position: relative; max-width: 100%; overflow: hidden; }
.pair img { position: absolute; inset: 0; width: 100%; height: 100%; }
.before { clip-path: inset(0 calc(100% - var(--at)) 0 0); }
.line { position: absolute; top: 0; bottom: 0; left: var(--at); width: 2px; margin-left: -1px;
  background: #fff; box-shadow: 0 0 4px #000; }
.tag { position: absolute; top: .5rem; padding: 0 .5em; background: #000a; border-radius: 3px; }
.left { left: .5rem; }
.right { right: .5rem; }
.pair input { position: absolute; inset: 0; width: 100%; height: 100%; margin: 0; opacity: 0;
  cursor: ew-resize; }
</style>
</head>
<body>
<h1>COUNT, before and after</h1>
<p>Move the pointer over an image to compare.</p>
BODY
<script>
for (const pair of document.querySelectorAll(".pair")) {
  const move = value => pair.style.setProperty("--at", value + "%");
  pair.querySelector("input").addEventListener("input", event => move(event.target.value));
  pair.addEventListener("pointermove", event => {
    const box = pair.getBoundingClientRect();
    move(Math.min(100, Math.max(0, 100 * (event.clientX - box.left) / box.width)));
  });
}
</script>
</body>
</html>
"""


def _panels(before: Picture, after: Picture) -> tuple[Image.Image, Image.Image, Image.Image]:
    first, second = _as_rgb(before), _as_rgb(after)
    if first.size != second.size:
        first = first.resize(second.size, Image.Resampling.BICUBIC)
    difference = np.asarray(second, np.int16) - np.asarray(first, np.int16)
    shown = np.clip(128 + _GAIN * difference, 0, 255).astype(np.uint8)
    return first, second, Image.fromarray(shown)


def _as_rgb(picture: Picture) -> Image.Image:
    samples = picture.samples
    if samples.dtype == np.uint16:
        samples = (samples >> 8).astype(np.uint8)
    return Image.fromarray(samples).convert("RGB")


def _fitted(image: Image.Image) -> Image.Image:
    scale = min(1.0, _PANEL / max(image.size))
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.resize(size, Image.Resampling.LANCZOS) if scale < 1 else image


def _interesting(before: Image.Image, after: Image.Image) -> list[tuple[int, int, int, int]]:
    """Return the squares in which the images differ most, without overlap."""
    if min(before.size) < _CROP:
        return []
    change = np.abs(np.asarray(after, np.int16) - np.asarray(before, np.int16)).sum(2)
    rows, columns = before.height // _CROP, before.width // _CROP
    squares = change[: rows * _CROP, : columns * _CROP].reshape(rows, _CROP, columns, _CROP)
    order = np.argsort(squares.sum((1, 3)), axis=None)[::-1][:_CROPS]
    corners = [(int(i) % columns * _CROP, int(i) // columns * _CROP) for i in order]
    return [(left, top, left + _CROP, top + _CROP) for left, top in corners]


def _zoomed(image: Image.Image, box: tuple[int, int, int, int]) -> Image.Image:
    size = _ZOOM * _CROP
    return image.crop(box).resize((size, size), Image.Resampling.NEAREST)


def _sheet(rows: list[list[Image.Image]], titles: tuple[str, ...]) -> Image.Image:
    gap, caption = 6, 20
    width = max(panel.width for row in rows for panel in row) + gap
    heights = [max(panel.height for panel in row) + gap for row in rows]
    sheet = Image.new("RGB", (width * len(titles), caption + sum(heights)), "white")
    draw = ImageDraw.Draw(sheet)
    for column, title in enumerate(titles):
        draw.text((column * width + 2, 4), title, fill="black")
    top = caption
    for row, height in zip(rows, heights, strict=True):
        for column, panel in enumerate(row):
            sheet.paste(panel, (column * width, top))
        top += height
    return sheet


def _as_url(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=95)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()
