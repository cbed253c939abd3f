"""What holding restored images to their JPEG files gains, by quality.

    python benchmarks/consistency.py --images datasets/LIVE1
    python benchmarks/consistency.py --slacks 0 0.25 0.5 1 --cells 0.5 --qualities 40 75 90 95

Images are the held-out photographs, or the files of a folder, whole; JPEGs are 4:2:0 by Pillow.
The first table has the mean PSNR in dB over RGB, rounded to 8 bits, of the JPEG and of the restored
image, then the gain of each projection over the restored image. The columns on single images take
the first projection: its least gain over the restored image and over the JPEG, and the share of
images that are worse than their JPEG. The second table tells how many of the original's own luma
coefficients lie outside their cells, and how far on a scale of 255. Times are processor time.
"""

import argparse
import io
import itertools
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from scipy.fft import dctn
from torch import Tensor

from cir_arch import load_network
from cir_data.images.jpeg_coefficients import JpegCoefficients, read_coefficients
from cir_model.restoring.consistency import project
from cir_model.restoring.inference import Restorer
from cir_model.restoring.luma import luma
from cir_model.restoring.settings import InferenceOptions
from cir_weights import default_weights

_ROOT = Path(__file__).parents[1]
_SUFFIXES = (".bmp", ".png", ".webp")


class _Clock:
    """Sums the processor time of a step."""

    def __init__(self) -> None:
        self.spent = 0.0

    def __enter__(self) -> None:
        self._start = time.process_time()

    def __exit__(self, *_: object) -> None:
        self.spent += time.process_time() - self._start


def main() -> None:
    flags = _flags()
    torch.set_num_threads(1)
    restorer = Restorer([load_network(flags.weights)], InferenceOptions())
    projections = list(itertools.product(flags.cells, flags.slacks))
    paths = _paths(flags.images)[:: flags.every]
    print(f"{flags.weights.stem}, {len(paths)} images of {flags.images or 'the held-out list'}\n")
    names = [f"cell {cell}" + (f", slack {slack}" if slack else "") for cell, slack in projections]
    _row("quality", "JPEG", "restored", *names, "least gain", "least over JPEG", "worse than JPEG")
    _row(*["---"] * (6 + len(names)))
    reading, projecting = _Clock(), _Clock()
    pixels = 0
    outside = []
    for quality in flags.qualities:
        scores, excesses = [], []
        for path in paths:
            with Image.open(path) as image:
                original = image.convert("RGB")
            file = io.BytesIO()
            original.save(file, "JPEG", quality=quality)
            with Image.open(file) as image:
                compressed = _tensor(image)
            strength = {"quality": 1 - quality / 100} if restorer.extra_inputs else {}
            restored = restorer(compressed, block_offset=(0, 0), **strength)
            with reading:
                coefficients = read_coefficients(file.getvalue())
            with projecting:
                held = [project(restored, coefficients, *each) for each in projections]
            pixels += original.width * original.height
            wanted = _tensor(original)
            scores.append([_psnr(each, wanted) for each in (compressed, restored, *held)])
            excesses.append(_excess(wanted, coefficients))
        table = np.array(scores)
        jpeg, before, first = table[:, 0], table[:, 1], table[:, 2]
        gains = (table[:, 2:] - before[:, None]).mean(0)
        _row(
            quality,
            f"{jpeg.mean():.2f}",
            f"{before.mean():.2f}",
            *(f"{gain:+.3f}" for gain in gains),
            f"{(first - before).min():+.3f}",
            f"{(first - jpeg).min():+.3f}",
            f"{(first < jpeg).mean():.0%}",
        )
        excess = np.concatenate(excesses)
        out = excess[excess > 0]
        outside.append((quality, f"{len(out) / len(excess):.2%}", *_distribution(out)))
    print("\nLuma coefficients of the originals outside their cells:\n")
    _row("quality", "share", "mean excess", "99 of 100 below", "largest")
    _row(*["---"] * 5)
    for row in outside:
        _row(*row)
    each = projecting.spent / len(projections)
    print(
        f"\nReading {reading.spent / pixels * 1e6:.3f} s/MP, projecting {each / pixels * 1e6:.3f}"
    )


def _flags() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--weights", type=Path, default=Path(default_weights()))
    parser.add_argument("--images", type=Path, help="a folder; default: the held-out photographs")
    parser.add_argument("--every", type=int, default=1, help="take every Nth image")
    parser.add_argument("--cells", type=float, nargs="+", default=(0.5, 0.3))
    parser.add_argument("--slacks", type=float, nargs="+", default=(0.0,))
    parser.add_argument("--qualities", type=int, nargs="+", default=(10, 40, 75, 90, 95, 98))
    return parser.parse_args()


def _paths(folder: Path | None) -> Sequence[Path]:
    if folder is not None:
        return sorted(path for path in folder.rglob("*") if path.suffix in _SUFFIXES)
    lines = (_ROOT / "options/meta_info/photographs_val.txt").read_text().splitlines()
    return [_ROOT / "datasets/train" / line.split(" (")[0] for line in lines]


def _row(*cells: object) -> None:
    print("|", " | ".join(map(str, cells)), "|", flush=True)


def _tensor(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.asarray(image, np.float32).transpose(2, 0, 1) / 255)[None]


def _psnr(one: Tensor, other: Tensor) -> float:
    rounded = (one.clamp(0, 1) * 255).round() / 255
    return float(-10 * (rounded - other).square().mean().log10())


def _excess(original: Tensor, coefficients: JpegCoefficients) -> npt.NDArray[np.float64]:
    """Return how far each luma coefficient of whole blocks lies outside its cell, else 0."""
    part = coefficients.components[0]
    rows, columns = coefficients.height // 8, coefficients.width // 8
    plane = luma(original)[0, 0, : rows * 8, : columns * 8].double().numpy() * 255 - 128
    blocks = plane.reshape(rows, 8, columns, 8).transpose(0, 2, 1, 3)
    steps = part.steps.astype(float)
    away = dctn(blocks, axes=(2, 3), norm="ortho") - part.quantised[:rows, :columns] * steps
    return np.maximum(np.abs(away) - steps / 2, 0).ravel()


def _distribution(excess: npt.NDArray[np.float64]) -> tuple[str, ...]:
    return tuple(f"{x:.2f}" for x in (excess.mean(), np.quantile(excess, 0.99), excess.max()))


if __name__ == "__main__":
    main()
