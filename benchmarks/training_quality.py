"""FBCNN-XS with and without teacher forcing: what it gains by the quality, and by its prediction.

    python benchmarks/training_quality.py datasets/train -o FOLDER

Both runs are ``basicsr train`` on `fbcnn_xs_x1.yml`, scaled down by the overrides below. Then each
network restores held-out photographs by the known quality, by its own prediction, and by a quality
of 20 less and more. Finished runs in the folder are not repeated, interrupted ones are resumed.
"""

import argparse
import io
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from training import photographs, recipe, train

from cir_arch import load_network
from cir_data.datasets.sample_fields import to_tensor

RECIPE = "fbcnn_xs_x1.yml"
QUALITIES = (10, 40, 90)
CROP, BATCH, WARM_UP = 64, 16, 200
EVERY = 3
"""Of the held-out photographs, this one is measured."""

FORMS = {"teacher_forcing": True, "by_its_prediction": False}


def training_options(name: str, steps: int, images: Path) -> dict[str, Any]:
    """Return the recipe, changed for a short training on one core."""
    options = recipe(RECIPE)
    options |= {"name": name, "num_gpu": 0}
    training = options["datasets"]["train"] | photographs(images, "train")
    training |= {"gt_size": CROP, "batch_size_per_gpu": BATCH, "num_worker_per_gpu": 1}
    training |= {"prefetch_mode": None, "pin_memory": False}
    options["datasets"] = {"train": training}
    del options["val"]
    options["train"] |= {"teacher_forcing": FORMS[name], "compile": False}
    options["train"] |= {"total_iter": steps, "warmup_iter": WARM_UP}
    options["train"]["scheduler"]["periods"] = [steps]
    options["logger"] |= {"save_checkpoint_freq": 500, "keep_checkpoints": 1}
    return options


def held_out(images: Path) -> list[Image.Image]:
    section = photographs(images, "val")
    names = Path(section["meta_info_file"]).read_text(encoding="utf-8").splitlines()
    return [Image.open(images / name.split()[0]).convert("RGB") for name in names[::EVERY]]


def pixels(image: Image.Image) -> Tensor:
    return to_tensor(np.asarray(image))[None] / 255


def compressed(image: Image.Image, quality: int) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer)


def psnr(image: Tensor, original: Tensor) -> float:
    return -10 * (image - original).square().mean().log10().item()


@torch.inference_mode()
def row(network: nn.Module, originals: list[Image.Image], quality: int) -> str:
    """Return the cells of a quality: gains in dB, error of the prediction, changes in levels."""
    known = 1 - quality / 100
    found: dict[str, list[float]] = {}
    for original in originals:
        truth, jpeg = pixels(original), pixels(compressed(original, quality))
        blind, predicted = network(jpeg, return_quality=True)
        restored = network(jpeg, known)
        weaker, stronger = (network(jpeg, min(max(known + d, 0), 1)) for d in (-0.2, 0.2))
        for key, value in (
            ("known", psnr(restored, truth) - psnr(jpeg, truth)),
            ("predicted", psnr(blind, truth) - psnr(jpeg, truth)),
            ("error", abs(100 * (1 - predicted.item()) - quality)),
            ("weaker", 255 * (weaker - restored).abs().mean().item()),
            ("stronger", 255 * (stronger - restored).abs().mean().item()),
        ):
            found.setdefault(key, []).append(value)
    mean = {key: fmean(values) for key, values in found.items()}
    return (
        f"q{quality} | {mean['known']:+.2f} | {mean['predicted']:+.2f} | {mean['error']:.1f} |"
        f" {mean['weaker']:.2f}, {mean['stronger']:.2f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("images", type=Path, help="folder of lossless photographs")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--steps", type=int, default=2500)
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    originals = held_out(options.images)
    print("| restored by | quality | known | predicted | its error | 20 less, 20 more: levels |")
    print("|---|---|---|---|---|---|")
    for name in FORMS:
        weights = options.output / f"experiments/{name}/models/net_g_latest.pth"
        if not weights.exists():
            train(training_options(name, options.steps, options.images), options.output)
        network = load_network(weights)
        for quality in QUALITIES:
            print(f"| {name.replace('_', ' ')} | {row(network, originals, quality)} |", flush=True)


if __name__ == "__main__":
    main()
