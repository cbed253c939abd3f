"""What each step of ``basicsr restore`` gains on a CPU, in one run.

    python benchmarks/restore_steps.py                                  # 4000x3000, two files
    python benchmarks/restore_steps.py --size 2000x1500 --files 4 --threads 2

The files are mosaics of the images of a folder, saved as JPEG. Each step runs in a process of its
own and restores all files by the default weights, from reading to writing. Processor seconds are
those of user and system together; the peak of memory includes torch. Steps add up from row to row.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import cycle
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from PIL import Image

from cir_arch import load_network
from cir_cli import restore
from cir_cli.heap import keep_freed_memory
from cir_cli.restore_jobs import LeftOut, list_jobs
from cir_data.images import writing
from cir_data.images.channels import Samples
from cir_model.restoring import on_disk
from cir_model.restoring.inference import Restorer
from cir_model.restoring.settings import InferenceOptions, RestoreOptions
from cir_weights import default_weights

STEPS = (
    "tiles of 384 px, overlap 96, averaged",
    "+ our tiles",
    "+ channels last",
    "+ freed memory kept",
    "+ PNG level 3 instead of 6",
    "+ reading and writing beside the network",
)


def mosaic(folder: Path, width: int, height: int) -> Samples:
    """Fill a picture with the images of a folder, row by row."""
    picture = np.zeros((height, width, 3), np.uint8)
    paths = cycle(sorted(folder.iterdir()))
    top = 0
    while top < height:
        left, lowest = 0, height
        while left < width:
            image = np.asarray(Image.open(next(paths)).convert("RGB"))
            part = image[: height - top, : width - left]
            picture[top : top + part.shape[0], left : left + part.shape[1]] = part
            left, lowest = left + part.shape[1], min(lowest, part.shape[0])
        top += lowest
    return picture


def run_step(step: int, folder: Path, threads: int) -> None:
    """Restore ``folder/in`` to ``folder/out`` by the first steps, and print what it took."""
    if step >= 3:
        keep_freed_memory()
    torch.set_num_threads(threads)
    how = {"tile": 384, "overlap": 96, "tiling": "ntire2024"} if step < 1 else {"tile": "auto"}
    network = load_network(default_weights())
    restorer = Restorer([network], InferenceOptions(precision="auto", **how))  # type: ignore[arg-type]
    if step < 2:
        restorer.facts = [replace(facts, channels_last=False) for facts in restorer.facts]
    if step < 4:
        writing._PNG_LEVEL = 6
    if step < 5:
        restore.LARGEST_AHEAD = on_disk.LARGEST_AHEAD = 0
    out = folder / "out"
    jobs = list_jobs([str(folder / "in")], str(out), "png")
    batch = restore._Batch(restorer, RestoreOptions(overwrite=True), out, None, None)
    processor, wall = time.process_time(), time.perf_counter()
    if batch.run(jobs, LeftOut()):
        raise SystemExit("a file failed")
    took = {
        "processor": time.process_time() - processor,
        "wall": time.perf_counter() - wall,
        "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6,
    }
    print(json.dumps(took))


@contextmanager
def files(options: argparse.Namespace) -> Iterator[tuple[Path, Samples]]:
    """Write the JPEGs to a temporary folder."""
    original = mosaic(options.folder, *map(int, options.size.split("x")))
    with TemporaryDirectory() as name:
        Path(name, "in").mkdir()
        for index in range(options.files):
            path = Path(name, "in", f"{index}.jpg")
            Image.fromarray(original).save(path, quality=options.quality)
        yield Path(name), original


def compare(options: argparse.Namespace) -> None:
    with files(options) as (folder, original):
        print(f"{options.files} files of {options.size} px, quality {options.quality},")
        print(f"torch {torch.__version__}, {options.threads} threads; per file:\n")
        print("| | processor, s | wall, s | peak, GB | PSNR, dB | bytes, MB |")
        print("|---|---|---|---|---|---|")
        for step, name in enumerate(STEPS):
            command = [sys.executable, __file__, "--threads", str(options.threads)]
            command += ["--step", str(step), "--below", str(folder)]
            said = subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout
            took = json.loads(said)
            result = folder / "out/0.png"
            error = np.square(np.asarray(Image.open(result), np.float32) - original).mean()
            print(
                f"| {name} | {took['processor'] / options.files:.2f}"
                f" | {took['wall'] / options.files:.2f} | {took['peak']:.2f}"
                f" | {10 * np.log10(255**2 / error):.4f} | {result.stat().st_size / 1e6:.2f} |",
                flush=True,
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--folder", type=Path, default=Path("datasets/LIVE1"))
    parser.add_argument("--size", default="4000x3000", metavar="WIDTHxHEIGHT")
    parser.add_argument("--files", type=int, default=2)
    parser.add_argument("--quality", type=int, default=35)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--step", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--below", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.step is None:
        compare(options)
    else:
        run_step(options.step, options.below, options.threads)


if __name__ == "__main__":
    main()
