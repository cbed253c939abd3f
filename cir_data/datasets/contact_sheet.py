"""A contact sheet: the first pairs of a data set with their random draws."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from cir_data.images.geometry import Pixels
from cir_host.file_names import printable
from cir_host.files import write_whole

_LONGEST = 256
"""Longest edge shown, in pixels; larger images show their top left part."""

_LINE = 14
_MARGIN = 4
_NOT_SHOWN = frozenset({"lq", "gt", "lq_path", "gt_path", "codec"})


def write_sheet(path: Path, samples: Sequence[Mapping[str, Any]]) -> None:
    """Write a PNG with one row per pair: compressed image, original, and facts.

    A compressed image that is smaller than its original is enlarged without interpolation.

    Args:
        path: The file; it is replaced atomically.
        samples: Samples of the data set, of 8 bits.
    """
    rows = [_row(sample) for sample in samples]
    width = max(row.width for row in rows)
    sheet = Image.new("RGB", (width, sum(row.height for row in rows)), "white")
    top = 0
    for row in rows:
        sheet.paste(row, (0, top))
        top += row.height
    write_whole(path, lambda file: sheet.save(file, "PNG"))


def describe(sample: Mapping[str, Any]) -> list[str]:
    """Return the lines of text beside a pair."""
    lines = [printable(Path(sample["gt_path"]).name), sample["codec"]]
    for key in sorted(sample.keys() - _NOT_SHOWN):
        value = sample[key]
        if isinstance(value, Tensor):
            value = value.tolist()
        lines.append(f"{key}: {value:.3f}" if isinstance(value, float) else f"{key}: {value}")
    return lines


def _row(sample: Mapping[str, Any]) -> Image.Image:
    gt = Image.fromarray(_pixels(sample["gt"]))
    lq = Image.fromarray(_pixels(sample["lq"])).resize(gt.size, Image.Resampling.NEAREST)
    width, height = (min(edge, _LONGEST) for edge in gt.size)
    shown = [image.crop((0, 0, width, height)) for image in (lq, gt)]
    lines = describe(sample)
    font = ImageFont.load_default()
    text = max(int(font.getlength(line)) for line in lines)
    edge = shown[0].width + _MARGIN
    height = max(shown[0].height, _LINE * len(lines)) + 2 * _MARGIN
    row = Image.new("RGB", (2 * edge + text + 2 * _MARGIN, height), "white")
    for number, image in enumerate(shown):
        row.paste(image.convert("RGB"), (_MARGIN + number * edge, _MARGIN))
    draw = ImageDraw.Draw(row)
    for number, line in enumerate(lines):
        draw.text((2 * edge + _MARGIN, _MARGIN + number * _LINE), line, fill="black", font=font)
    return row


def _pixels(tensor: Tensor) -> Pixels:
    """Convert (C, H, W) to (H, W) or (H, W, 3)."""
    image: Pixels = tensor.numpy().transpose(1, 2, 0)
    return image[..., 0] if image.shape[2] == 1 else image
