"""Speed of ``basicsr restore`` on a GPU, on a folder of 12-megapixel JPEGs.

    python benchmarks/restore_gpu.py datasets/train
    python benchmarks/restore_gpu.py FOLDER --files 2 --size 400x300 --device cpu

The photographs of the folder are tiled to pictures of 4000 x 3000 pixels and compressed with
quality 35. For each network, the command restores 1 file, then all: the difference is the time of
the other files, without the start of the process. ``network`` is the time of the network alone, for
one picture that is on the device already. The last lines restore a picture while other tensors fill
the GPU's memory, and check the result.
"""

import argparse
import subprocess
import sys
import tempfile
import time
import traceback
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from cir_arch import load_network
from cir_data.images.channels import Samples
from cir_data.images.errors import DECODING_ERRORS
from cir_model.restoring.inference import Restorer
from cir_model.restoring.settings import InferenceOptions


def pictures(folder: Path, count: int, size: tuple[int, int]) -> list[Samples]:
    """Tile photographs to pictures (H, W, 3)."""
    with suppress(ImportError):
        import pillow_jxl  # noqa: F401  # reads .jxl
    width, height = size
    photographs = []
    for path in sorted(folder.iterdir()):
        try:
            photograph = np.asarray(Image.open(path).convert("RGB"))
        except DECODING_ERRORS:
            continue
        if min(photograph.shape[:2]) >= 480:
            photographs.append(photograph[:480, :480])
        if len(photographs) == 60:
            break
    made = []
    rows, columns = -(-height // 480), -(-width // 480)
    for number in range(count):
        chosen = [photographs[(number * 7 + i) % len(photographs)] for i in range(rows * columns)]
        lines = [np.hstack(chosen[row * columns : (row + 1) * columns]) for row in range(rows)]
        made.append(np.ascontiguousarray(np.vstack(lines)[:height, :width]))
    return made


def command_seconds(folder: Path, out: Path, weights: str, device: str) -> float:
    start = time.perf_counter()
    words = ["restore", folder, "-o", out, "-m", weights, "--device", device, "--overwrite"]
    done = subprocess.run(
        [sys.executable, "-m", "cir_cli", *map(str, words)], capture_output=True, text=True
    )
    if done.returncode:
        raise RuntimeError(done.stderr[-500:])
    return time.perf_counter() - start


def network_seconds(picture: Samples, weights: str, device: str) -> float:
    how = InferenceOptions(tile="auto", precision="auto")
    restorer = Restorer([load_network(weights).to(device)], how)
    image = torch.from_numpy(picture).to(device).permute(2, 0, 1)[None].float() / 255
    for _ in range(2):  # the first is a warm-up
        start = time.perf_counter()
        restorer(image)
        if device != "cpu":
            torch.cuda.synchronize()
    return time.perf_counter() - start


def check_full_memory(picture: Samples, weights: str) -> None:
    """Restore while other tensors fill the GPU's memory."""
    network = load_network(weights).to("cuda")
    image = torch.from_numpy(picture).permute(2, 0, 1)[None].float() / 255
    expected = Restorer([network], InferenceOptions(tile=512))(image)
    for free in (4.0, 1.0, 0.25):
        torch.cuda.empty_cache()
        available, _ = torch.cuda.mem_get_info()
        filled = torch.empty(
            max(0, int(available - free * 2**30)), dtype=torch.uint8, device="cuda"
        )
        restorer = Restorer([network], InferenceOptions(tile=0))  # whole images, if they fit
        try:
            restored = restorer(image)
            how = f"{restorer.describe()['inference']}, "
            how += f"{(restored - expected).abs().mean().item() * 255:.4f} levels from tiles of 512"
        except Exception as error:
            how = f"{type(error).__name__}: {error}"
        print(f"{weights}, {free} GiB free: {how}", flush=True)
        del filled


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("folder", type=Path)
    parser.add_argument(
        "--weights", nargs="+", default=["fbcnn_xs_x1", "fbcnn_s_x1", "promptcir_s_x1"]
    )
    parser.add_argument("--files", type=int, default=9)
    parser.add_argument("--size", default="4000x3000", help="WIDTHxHEIGHT")
    parser.add_argument("--device", default="cuda")
    options = parser.parse_args()
    width, height = map(int, options.size.split("x"))
    made = pictures(options.folder, options.files, (width, height))
    megapixels = width * height / 1e6
    with tempfile.TemporaryDirectory() as name:
        one, all_of_them = Path(name, "one"), Path(name, "all")
        for folder, some in ((one, made[:1]), (all_of_them, made)):
            folder.mkdir()
            for number, picture in enumerate(some):
                Image.fromarray(picture).save(folder / f"{number}.jpg", quality=35)
        if options.device == "cuda":
            print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}")
        print(f"{options.files} files of {megapixels:.2f} MP, {options.device}\n")
        print("| network | MP/s | MP/s of the network alone | one file, s | all files, s |")
        print("|---|---|---|---|---|")
        for weights in options.weights:
            try:
                single = command_seconds(one, Path(name, "out"), weights, options.device)
                whole = command_seconds(all_of_them, Path(name, "out"), weights, options.device)
                alone = network_seconds(made[0], weights, options.device)
            except Exception as error:
                print(f"| {Path(weights).stem} | {type(error).__name__}: {error} | | | |")
                continue
            speed = (options.files - 1) * megapixels / (whole - single)
            print(
                f"| {Path(weights).stem} | {speed:.1f} | {megapixels / alone:.1f} |"
                f" {single:.1f} | {whole:.1f} |",
                flush=True,
            )
    if options.device == "cuda":
        print()
        for weights in options.weights:
            try:
                check_full_memory(made[0], weights)
            except Exception:
                traceback.print_exc()


if __name__ == "__main__":
    main()
