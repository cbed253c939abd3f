"""``basicsr demo``: restore photographs, then train and test a small PromptCIR.

The photographs are part of scikit-image, which BasicSR requires, so nothing is downloaded.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch
import yaml
from basicsr.archs import build_network
from basicsr.data import build_dataset
from basicsr.utils import tensor2img
from PIL import Image
from torch.nn.functional import l1_loss
from tqdm import tqdm

from cir_arch import load_network
from cir_cli import parsers
from cir_cli.options_files import find
from cir_cli.showcase import show, side_by_side, stacked
from cir_data.images.photographs import SHOWPIECES, photograph
from cir_host.errors import UserError
from cir_model.restoring.inference import Restorer
from cir_model.restoring.settings import InferenceOptions
from cir_weights import default_weights

PHOTOGRAPHS = {
    "train": ("astronaut", "coffee", "motorcycle_left"),
    "test": ("chelsea",),
}
"""Lossless photographs. The one for the test is not used in training."""

LEAST_ITERATIONS = 60
"""Fewest iterations, even if they take longer than asked: 30 gain too little to be seen."""

SHORT = 90
"""Fewer iterations train by half the learning rate.

On three seeds, 60 iterations gained 0.03 to 0.14 dB by half the rate, and -0.01 to 0.18 dB by the
whole one; 90 by the whole one gained 0.09 dB or more on the one seed tried.
"""

_LONGEST_MEASUREMENT = 10.0
"""Seconds after which no more steps are timed."""

CROP = (110, 60, 240, 190)
"""Left, top, right and bottom of the part of the test photograph that is shown."""


def run(arguments: list[str]) -> None:
    """Restore with the bundled weights, then train for about two minutes and test.

    Writes ``restored.png`` and ``comparison.png``.

    Raises:
        UserError: A step failed, or a restored photograph is no better than its JPEG.
    """
    options = parsers.demo().parse_args(arguments)
    folder: Path = options.folder
    torch.set_num_threads(_free_cores())
    _restore(folder)
    _copy_photographs(folder / "photographs")
    fitting = int(options.seconds / _seconds_per_step("demo_train.yml"))
    iterations = max(LEAST_ITERATIONS, fitting)
    print(f"Training a small PromptCIR for {iterations} iterations ...", flush=True)
    _basicsr(
        folder,
        "train",
        "-opt=demo_train.yml",
        "--force_yml",
        f"train:total_iter={iterations}",
        f"train:scheduler:periods=[{iterations}]",
        *(["train:optim_g:lr=1e-3"] if iterations < SHORT else []),
        total=iterations,
    )
    print("Testing it on a photograph that was not used in training ...", flush=True)
    _basicsr(folder, "test", "-opt=demo_test.yml")
    results = folder / "results" / "demo_test"
    print((results / "metrics.md").read_text(encoding="utf-8"))
    picture = _write_comparison(folder, results)
    print(f"Input, restored, original side by side: {picture}")
    gains = _psnr_gains(results / "metrics.json")
    if min(gains.values()) <= 0:
        raise UserError(
            f"the test photograph was not improved (gain in dB: {gains}); train longer with"
            " --seconds"
        )


def _restore(folder: Path) -> None:
    """Restore photographs with the bundled weights, and save the comparison."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = default_weights()
    print(f"Restoring photographs with the bundled weights {weights.stem} ...", flush=True)
    restorer = Restorer([load_network(weights)], InferenceOptions())
    strips = []
    for piece in SHOWPIECES[:3]:
        shown = show(restorer, piece)
        strips.append(shown.strip)
        gain = shown.after - shown.before
        print(
            f"  {piece.name}, JPEG quality {piece.quality}: PSNR {shown.before:.2f} ->"
            f" {shown.after:.2f} dB ({gain:+.2f})",
            flush=True,
        )
        if gain <= 0:
            raise UserError(f"{piece.name}: restoring did not improve the JPEG")
    path = folder / "restored.png"
    stacked(strips).save(path)
    print(f"Input, restored, original side by side: {path}")


def _copy_photographs(folder: Path) -> None:
    for part, names in PHOTOGRAPHS.items():
        (folder / part).mkdir(parents=True, exist_ok=True)
        for name in names:
            shutil.copy(photograph(name), folder / part)


def _options(name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(find(name).read_text(encoding="utf-8"))
    return loaded


def _seconds_per_step(options_name: str) -> float:
    """Time training steps of the demo's network, so the demo takes the time asked for."""
    options = _options(options_name)
    train = options["datasets"]["train"]
    device = "cuda" if torch.cuda.is_available() else "cpu"
    network = build_network(options["network_g"]).to(device)
    optimizer = torch.optim.AdamW(network.parameters())
    size = train["gt_size"]
    image = torch.rand(train["batch_size_per_gpu"], 3, size, size, device=device)
    times: list[float] = []
    while len(times) < 6 and sum(times) < _LONGEST_MEASUREMENT:
        start = time.perf_counter()
        optimizer.zero_grad()
        torch.autograd.backward(l1_loss(network(image), 1 - image))
        optimizer.step()
        if device == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return median(times[1:] or times)  # the first step is a warm-up


def _free_cores() -> int:
    """Return how many cores this process really gets, at least one.

    Threads wait for each other at the end of each operation. If they share cores with other
    programs, or with each other in a container, a step takes many times as long as with one thread.
    """
    matrix = torch.rand(512, 512)
    start, computed = time.perf_counter(), time.process_time()
    while time.perf_counter() - start < 1:
        torch.mm(matrix, matrix)
    share = (time.process_time() - computed) / (time.perf_counter() - start)
    return max(1, round(share))


def _basicsr(folder: Path, *arguments: str, total: int | None = None) -> None:
    """Run the command in a separate process, with a progress bar of its iterations."""
    command = [sys.executable, "-m", "cir_cli", *arguments]
    threads = {
        "OMP_NUM_THREADS": str(torch.get_num_threads()),
        "OMP_WAIT_POLICY": "PASSIVE",  # waiting threads must not occupy cores
    }
    tail: list[str] = []
    with (
        subprocess.Popen(
            command,
            cwd=folder,
            env={**os.environ, **threads},
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        ) as process,
        tqdm(total=total, unit="it", disable=total is None) as bar,
    ):
        assert process.stdout is not None
        for line in process.stdout:
            tail = [*tail[-14:], line]
            if found := re.search(r"iter:\s*([\d,]+).*l_pix: (\S+)", line):
                bar.update(int(found[1].replace(",", "")) - bar.n)
                bar.set_postfix_str(f"loss {float(found[2]):.4f}")
    if process.returncode:
        raise UserError(f"{' '.join(command)} failed in {folder}; it printed:\n{''.join(tail)}")


def _psnr_gains(path: Path) -> dict[str, float]:
    data_sets = json.loads(path.read_text(encoding="utf-8"))["data_sets"]
    return {name: data_set["mean"]["psnr"]["gain"] for name, data_set in data_sets.items()}


def _write_comparison(folder: Path, results: Path) -> Path:
    """Write the JPEG, the restored image and the original side by side, enlarged."""
    options = _options("demo_test.yml")
    data = {**options["datasets"]["test_1"], "phase": "test", "scale": 1, "manual_seed": 0}
    data["dataroot_gt"] = str(folder / data["dataroot_gt"])
    sample = build_dataset(data)[0]
    (restored,) = (results / "visualization" / data["name"]).glob("*.png")
    jpeg, original = (
        Image.fromarray(tensor2img([sample[key]], rgb2bgr=False)) for key in ("lq", "gt")
    )
    panels = {
        f"JPEG, quality {data['quality']}": jpeg,
        "restored": Image.open(restored),
        "original": original,
    }
    strip = side_by_side({title: image.crop(CROP) for title, image in panels.items()}, zoom=3)
    path = folder / "comparison.png"
    strip.save(path)
    return path
