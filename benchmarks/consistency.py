"""What holding restored pictures to their JPEG files gains, by quality.

    python benchmarks/consistency.py --weights FILE.safetensors --every 3
    python benchmarks/consistency.py --images datasets/LIVE1 --qualities 90 95

The mean PSNR in dB over RGB, rounded to 8 bits: of the JPEG itself (4:2:0, by Pillow), of the
restored picture, and of its projections for each cell, each as the gain over the column before the
projections; and the smallest gain of any image by the projection with a cell of 0.5. Images are the
held-out photographs, or the files of a folder; only their top left corner of ``--side`` pixels.
The last line is the processor time of the projection per megapixel.
"""

import argparse
import io
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from cir_arch import load_network
from cir_data.images.jpeg_coefficients import read_coefficients
from cir_model.restoring.consistency import project
from cir_model.restoring.inference import Restorer
from cir_model.restoring.settings import InferenceOptions
from cir_weights import default_weights

_ROOT = Path(__file__).parents[1]
_CELLS = (0.5, 0.3)
_SUFFIXES = (".bmp", ".png", ".webp")


def main() -> None:
    flags = _flags()
    torch.set_num_threads(1)
    restorer = Restorer([load_network(flags.weights)], InferenceOptions())
    paths = _paths(flags.images)[:: flags.every]
    images = flags.images or "the held-out list"
    print(f"{Path(flags.weights).stem}, {len(paths)} images of {images}\n")
    cells = " | ".join(f"cell {cell}" for cell in _CELLS)
    print(f"| quality | JPEG | restored | {cells} | least gain |")
    print("|---|---|---|" + "---|" * (len(_CELLS) + 1))
    spent = pixels = 0.0
    for quality in flags.qualities:
        rows = []
        for path in paths:
            with Image.open(path) as image:
                original = image.convert("RGB").crop(
                    (0, 0, min(image.width, flags.side), min(image.height, flags.side))
                )
            file = io.BytesIO()
            original.save(file, "JPEG", quality=quality)
            with Image.open(file) as image:
                compressed = _tensor(image)
            strength = {"quality": 1 - quality / 100} if restorer.extra_inputs else {}
            restored = restorer(compressed, **strength)
            start = time.process_time()
            coefficients = read_coefficients(file.getvalue())
            held = [project(restored, coefficients, cell) for cell in _CELLS]
            spent += time.process_time() - start
            pixels += original.width * original.height * len(held)
            rows.append([_psnr(each, _tensor(original)) for each in (compressed, restored, *held)])
        table = np.array(rows)
        jpeg, restored_mean, *means = table.mean(0)
        gains = " | ".join(f"{mean - restored_mean:+.3f}" for mean in means)
        least = (table[:, 2] - table[:, 1]).min()
        print(f"| {quality} | {jpeg:.2f} | {restored_mean:.2f} | {gains} | {least:+.3f} |")
    print(f"\n{spent / pixels * 1e6:.3f} s/MP")


def _flags() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--weights", type=Path, default=default_weights())
    parser.add_argument("--images", type=Path, help="a folder; default: the held-out photographs")
    parser.add_argument("--every", type=int, default=1, help="take every Nth image")
    parser.add_argument("--side", type=int, default=4096)
    parser.add_argument(
        "--qualities", type=int, nargs="+", default=(10, 40, 75, 85, 88, 90, 92, 94, 95, 96, 98)
    )
    return parser.parse_args()


def _paths(folder: Path | None) -> Sequence[Path]:
    if folder is not None:
        return sorted(path for path in folder.rglob("*") if path.suffix in _SUFFIXES)
    lines = (_ROOT / "options/meta_info/photographs_val.txt").read_text().splitlines()
    return [_ROOT / "datasets/train" / line.split(" (")[0] for line in lines]


def _tensor(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.asarray(image, np.float32).transpose(2, 0, 1) / 255)[None]


def _psnr(one: Tensor, other: Tensor) -> float:
    rounded = (one.clamp(0, 1) * 255).round() / 255
    return float(-10 * (rounded - other).square().mean().log10())


if __name__ == "__main__":
    main()
