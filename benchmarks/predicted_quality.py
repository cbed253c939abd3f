"""Which network tells the quality of a JPEG from its pixels best.

    python benchmarks/predicted_quality.py             # every third held-out photograph
    python benchmarks/predicted_quality.py --every 1   # all 26
    python benchmarks/predicted_quality.py --networks cave_s_x1 fbcnn_xs_x1 fbcnn_s_x1

Compares CaVE-S with the quality heads of FBCNNs on the held-out photographs, JPEG by Pillow, 4:2:0:
the whole image, without its first 3 rows and 5 columns, a crop of 96x96 anywhere, and the whole
image saved as WebP (Pillow's default, quality 80) after the JPEG; as ``basicsr restore`` estimates
it, on the block grid that is found and in windows of large images. Prints the mean absolute error,
and the processor time per megapixel with one thread.
"""

import argparse
import io
import random
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from cir_arch import load_network
from cir_cli.options_files import find
from cir_model.restoring.pixel_quality import pixel_quality

QUALITIES = tuple(range(5, 100, 10))
SHIFT = (3, 5)
CROP = 96


def photographs(data: Path, every: int) -> list[Image.Image]:
    """Return the held-out photographs, every n-th of the list."""
    listed = find("promptcir_s_x1.yml").parent / "meta_info" / "photographs_val.txt"
    names = [line.split(" (")[0] for line in listed.read_text(encoding="utf-8").splitlines()]
    images = []
    for name in names[::every]:
        with Image.open(data / "train" / name) as image:
            images.append(image.convert("RGB"))
    return images


def compressed(image: Image.Image, file_format: str, **options: int) -> Image.Image:
    """Return the decoded file of an image."""
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    with Image.open(buffer) as decoded:
        return decoded.convert("RGB")


def tensor(image: Image.Image) -> Tensor:
    """Return the pixels, (1, 3, H, W) in [0, 1]."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)[None] / 255


def views(jpeg: Image.Image, rng: random.Random) -> dict[str, Tensor]:
    """Return what is left of a decoded JPEG in each case."""
    image = tensor(jpeg)
    height, width = image.shape[-2:]
    top, left = rng.randint(0, height - CROP), rng.randint(0, width - CROP)
    return {
        "whole": image,
        "shifted": image[..., SHIFT[0] :, SHIFT[1] :],
        "crop": image[..., top : top + CROP, left : left + CROP],
        "WebP": tensor(compressed(jpeg, "WEBP")),
    }


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("datasets"))
    parser.add_argument("--every", type=int, default=3)
    parser.add_argument("--networks", nargs="+", default=["cave_s_x1", "fbcnn_xs_x1"])
    options = parser.parse_args()
    torch.set_num_threads(1)
    images = photographs(options.data, options.every)
    print(f"{len(images)} held-out photographs; mean absolute error of the quality\n")
    cases = ("whole", "shifted", "crop", "WebP")
    print(f"| network | view | {' | '.join(map(str, QUALITIES))} | mean | s/MP |")
    print("|---" * (len(QUALITIES) + 4) + "|")
    for name in options.networks:
        network = load_network(name)
        errors: dict[tuple[str, int], list[float]] = defaultdict(list)
        seconds, pixels = dict.fromkeys(cases, 0.0), dict.fromkeys(cases, 0)
        for index, image in enumerate(images):
            for quality in QUALITIES:
                rng = random.Random(f"{index} {quality}")
                for case, view in views(compressed(image, "JPEG", quality=quality), rng).items():
                    start = time.process_time()
                    errors[case, quality].append(abs((pixel_quality(network, view) or 0) - quality))
                    seconds[case] += time.process_time() - start
                    pixels[case] += view.shape[-2] * view.shape[-1]
        for case in cases:
            means = [float(np.mean(errors[case, quality])) for quality in QUALITIES]
            cells = " | ".join(f"{mean:.1f}" for mean in means)
            speed = seconds[case] / (pixels[case] / 1e6)
            print(f"| {name} | {case} | {cells} | {np.mean(means):.1f} | {speed:.1f} |", flush=True)


if __name__ == "__main__":
    main()
