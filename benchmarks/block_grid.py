"""What the block grid is worth, and how reliably it is found in a cut JPEG.

    OMP_NUM_THREADS=1 python benchmarks/block_grid.py          # minutes on one core
    OMP_NUM_THREADS=1 python benchmarks/block_grid.py --every 1 --qualities 40
    OMP_NUM_THREADS=1 python benchmarks/block_grid.py --network fbcnn_s_x1 --every 4

Each picture becomes a JPEG (Pillow, 4:2:0), loses its first rows and columns, and is restored: the
file before it was cut, the cut picture with the grid found, and without. All gains in PSNR are
measured on the pixels that the cut leaves. Held-out photographs and JPEG XL tell what happens to
pictures that were never a JPEG; their gains are measured against the original.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from predicted_quality import compressed, photographs
from torch import Tensor
from torch.nn import functional as F

from cir_arch import load_network
from cir_data.codecs.choice import make_codec
from cir_model.restoring import block_grid
from cir_model.restoring.block_grid import Frame, block_offset
from cir_model.restoring.inference import Restorer
from cir_model.restoring.settings import InferenceOptions

CUTS = ((3, 5), (11, 5), (6, 1))
"""Rows and columns that are cut off."""


def psnr(image: Tensor, original: Tensor) -> float:
    """Return the PSNR of a restored image, in dB."""
    return float(-10 * torch.log10((image.clamp(0, 1) - original).square().mean()))


def tensor(image: Image.Image) -> Tensor:
    """Return the pixels, (1, 3, H, W) in [0, 1]."""
    return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)[None] / 255


def decoded(image: Image.Image, quality: int) -> Tensor:
    """Return the pixels of a JPEG."""
    return tensor(compressed(image, "JPEG", quality=quality))


def after_cut(image: Tensor, cut: tuple[int, int]) -> Tensor:
    """Return what a cut leaves."""
    return image[..., cut[0] :, cut[1] :]


class Reflecting(Frame):
    """The frame with reflected instead of repeated pixels."""

    def extend(self, image: Tensor) -> Tensor:
        """Add the frame to images (B, C, H, W)."""
        return F.pad(image, (self.left, self.right, self.top, self.bottom), mode="reflect")


def test_images(data: Path, every: int) -> list[Image.Image]:
    """Return every n-th image of LIVE1."""
    return [Image.open(path).convert("RGB") for path in sorted(data.glob("LIVE1/*.png"))[::every]]


def cut_jpegs(images: list[Image.Image], qualities: list[int], name: str) -> Iterator[str]:
    """Yield the table of cut JPEGs."""
    network = load_network(name)
    found, none = (Restorer([network], InferenceOptions(grid=grid)) for grid in ("auto", "none"))
    yield "| quality | cut | found | the file | grid found | no grid |\n|---|---|---|---|---|---|"
    for quality in qualities:
        jpegs = [(tensor(image), decoded(image, quality)) for image in images]
        whole = [none(jpeg) for _, jpeg in jpegs]
        for cut in CUTS:
            right, gains = 0, []
            for (original, jpeg), restored in zip(jpegs, whole, strict=True):
                gt, image = after_cut(original, cut), after_cut(jpeg, cut)
                right += block_offset(image) == (-cut[0] % 8, -cut[1] % 8)
                before = psnr(image, gt)
                ways = (after_cut(restored, cut), found(image), none(image))
                gains.append([psnr(way, gt) - before for way in ways])
            cells = " | ".join(f"{gain:+.3f}" for gain in np.mean(gains, 0))
            yield f"| {quality} | {cut[0]}, {cut[1]} | {right} of {len(images)} | {cells} |"


def other_frames(images: list[Image.Image], name: str, quality: int = 40) -> Iterator[str]:
    """Yield the table of frames and ensembles, for a cut whose sizes are no multiples of 16."""
    network, cut = load_network(name), (11, 5)
    offset = (-cut[0] % 8, -cut[1] % 8)
    none = Restorer([network], InferenceOptions(grid="none"))
    x8, x8_none = (
        Restorer([network], InferenceOptions(grid=grid, self_ensemble="x8"))
        for grid in ("auto", "none")
    )

    def framed(frame: Frame) -> Callable[[Tensor], Tensor]:
        return lambda image: frame.cut(none(frame.extend(image)), 1)

    phases = {(top, left): framed(Frame(top, left)) for top in (11, 3) for left in (5, 13)}
    ways: dict[str, Callable[[Tensor], Tensor]] = {
        "edge pixels repeated": framed(Frame(3, 5)),
        "reflected": framed(Reflecting(3, 5)),
        "units of 16 pixels at the corner": phases[11, 5],
        "units 8 rows off": phases[3, 5],
        "units 8 columns off": phases[11, 13],
        "units 8 rows and columns off": phases[3, 13],
        "x8, grid found": lambda image: x8(image, offset),
        "x8, no grid": x8_none,
    }
    gains: dict[str, list[float]] = {name: [] for name in ways}
    for image in images:
        gt, jpeg = (after_cut(x, cut) for x in (tensor(image), decoded(image, quality)))
        for label, way in ways.items():
            gains[label].append(psnr(way(jpeg), gt) - psnr(jpeg, gt))
    yield f"| quality {quality}, cut {cut[0]}, {cut[1]} | gain |\n|---|---|"
    for label, values in gains.items():
        yield f"| {label} | {np.mean(values):+.3f} |"


def never_jpeg(images: list[Image.Image], name: str) -> Iterator[str]:
    """Yield the table of pictures that were never compressed, or by another codec."""
    network, cut = load_network(name), (3, 5)
    found, none = (Restorer([network], InferenceOptions(grid=grid)) for grid in ("auto", "none"))
    yield "| input | grids found | PSNR | grid found | no grid |\n|---|---|---|---|---|"
    codecs = {"never compressed": None, "JPEG XL 97": 97, "JPEG XL 90": 90}
    for label, quality in codecs.items():
        count, rows = 0, []
        for image in images:
            pixels = np.array(image)
            if quality is not None:
                pixels = make_codec("jxl", "codec").compress(pixels, quality)
            gt, x = (after_cut(tensor(i), cut) for i in (image, Image.fromarray(pixels)))
            count += block_offset(x) is not None
            before = 0.0 if quality is None else psnr(x, gt)
            rows.append([before, psnr(found(x), gt) - before, psnr(none(x), gt) - before])
        cells = " | ".join(f"{mean:.2f}" for mean in np.mean(rows, 0))
        yield f"| {label} | {count} of {len(images)} | {cells} |"


def show(lines: Iterator[str]) -> None:
    """Print the lines of a table as they are measured."""
    for line in lines:
        print(line, flush=True)
    print()


def search_time() -> str:
    """Return the processor time of a search in a large image."""
    image = torch.rand(1, 3, 3000, 4000, generator=torch.Generator().manual_seed(0))
    block_grid.search(image)
    start = time.process_time()
    block_grid.search(image)
    return f"Search in 4000x3000 pixels: {time.process_time() - start:.2f} s of processor time."


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("datasets"))
    parser.add_argument("--network", default="fbcnn_xs_x1")
    parser.add_argument("--every", type=int, default=3, help="use every n-th image")
    parser.add_argument("--qualities", type=int, nargs="+", default=[10, 40, 75, 90, 95])
    parser.add_argument(
        "--tables", nargs="+", default=["cut", "frames", "others", "time"], help="which tables"
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    images = test_images(options.data, options.every)
    print(f"{options.network}; {len(images)} images of LIVE1; gains in dB of PSNR\n")
    if "cut" in options.tables:
        show(cut_jpegs(images, options.qualities, options.network))
    if "frames" in options.tables:
        show(other_frames(images, options.network))
    if "others" in options.tables:
        crops = [photo.crop((0, 0, 264, 264)) for photo in photographs(options.data, 1)]
        print(f"{len(crops)} held-out photographs, 264x264, cut by 3 rows and 5 columns\n")
        show(never_jpeg(crops, options.network))
    if "time" in options.tables:
        print(search_time())


if __name__ == "__main__":
    main()
