"""Training crops on JPEG's grid against crops anywhere: same network, steps, data and seed.

    OMP_NUM_THREADS=1 python benchmarks/grid.py datasets/train -o FOLDER   # minutes on one core

A small PromptCIR is trained twice by ``basicsr train``, with ``align: mcu`` and ``align: none``.
Both then restore held-out photographs: whole, so that the blocks begin at the corner as in a JPEG
file, and with 3 rows and 5 columns cut off after compression. Finished runs in the folder are not
repeated, interrupted ones are resumed.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from training import BATCH, CROP, network_options, photographs, recipe, train

from cir_arch import load_network
from cir_data.codecs.jpeg import JPEG
from cir_data.datasets.sample_fields import to_tensor
from cir_data.images.decoding import decode
from cir_data.images.geometry import Pixels
from cir_data.storage.dataroots import open_images

ALIGNED = ("mcu", "none")
QUALITIES = (10, 40, 90)
SHIFTS = {"whole": (0, 0), "cut by 3 rows and 5 columns": (3, 5)}
RESULTS = Path(__file__).parent / "results/grid_cpu.md"


def training_options(align: str, steps: int, images: Path) -> dict[str, Any]:
    """Return PromptCIR's recipe, changed for a short training on one core."""
    options = recipe("promptcir_x1.yml")
    options |= {"name": f"grid_{align}", "manual_seed": 0, "num_gpu": 0}
    options["network_g"] = network_options("PromptCIR")
    training = options["datasets"]["train"] | photographs(images, "train")
    training |= {"name": "photographs", "quality": {"range": [5, 95]}, "align": align}
    training |= {"gt_size": CROP, "batch_size_per_gpu": BATCH, "num_worker_per_gpu": 0}
    training |= {"cache": True, "prefetch_mode": None, "persistent_workers": False}
    options["datasets"] = {"train": training}
    del options["val"]
    options["train"] |= {"total_iter": steps, "ema_decay": 0.99, "warmup_iter": 50}
    options["train"] |= {"grad_clip": 0.5, "no_decay": True}
    options["train"]["optim_g"]["lr"] = 1.5e-3
    options["train"]["scheduler"]["periods"] = [steps]
    options["logger"] = {"print_freq": 50, "save_checkpoint_freq": 200, "use_tb_logger": False}
    options["logger"]["keep_checkpoints"] = 1
    return options


def held_out(images: Path) -> list[Pixels]:
    section = photographs(images, "val")
    (listed,) = open_images("images", section["dataroot_gt"], section["meta_info_file"])
    return [decode(image.read(), image.path) for image in listed]


def psnr(first: Pixels, second: Pixels) -> float:
    error = np.square(first.astype(np.float64) - second).mean()
    return float(10 * np.log10(255**2 / error))


@torch.inference_mode()
def gain(network: nn.Module, photograph: Pixels, quality: int, shift: tuple[int, int]) -> float:
    """Return how much PSNR the network adds to a compressed photograph, in dB."""
    rows, columns = shift
    lq = JPEG().compress(photograph, quality)[rows:, columns:]
    gt = photograph[rows:, columns:]
    restored = network(to_tensor(lq)[None].float() / 255)[0]
    pixels = (restored * 255).round().clamp(0, 255).byte().numpy().transpose(1, 2, 0)
    return psnr(pixels, gt) - psnr(lq, gt)


def table(networks: dict[str, nn.Module], photographs_: list[Pixels]) -> str:
    """Return the mean gain of each network, by quality and shift."""
    lines = [
        "| gain over the JPEG, dB | " + " | ".join(f"quality {q}" for q in QUALITIES) + " |",
        "|---|" + "---|" * len(QUALITIES),
    ]
    for name, shift in SHIFTS.items():
        for align, network in networks.items():
            means = [
                np.mean([gain(network, photograph, quality, shift) for photograph in photographs_])
                for quality in QUALITIES
            ]
            cells = " | ".join(f"{mean:+.3f}" for mean in means)
            lines.append(f"| align: {align}, photographs {name} | {cells} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("images", type=Path, help="folder of the photographs listed")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--every", type=int, default=1, help="measure every n-th photograph")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    networks = {}
    for align in ALIGNED:
        made = training_options(align, options.steps, options.images)
        weights = options.output / f"experiments/{made['name']}/models/net_g_latest.pth"
        if not weights.exists():
            train(made, options.output)
        networks[align] = load_network(weights)
    found = held_out(options.images)[:: options.every]
    text = (
        f"{options.steps} steps of {BATCH} crops of {CROP}x{CROP}, quality 5 to 95, one seed;"
        f" {len(found)} held-out photographs; torch {torch.__version__}.\n\n"
        + table(networks, found)
    )
    command = f"python benchmarks/grid.py IMAGES -o FOLDER --steps {options.steps}"
    command += f" --every {options.every}" if options.every > 1 else ""
    RESULTS.write_text(f"# Crops on JPEG's grid or anywhere\n\n`{command}`\n\n{text}\n", "utf-8")
    print(text)


if __name__ == "__main__":
    main()
