"""Speed of ``basicsr train`` on a GPU against a bare loop, by the recipe of FBCNN-S.

    python benchmarks/training_gpu.py FOLDER                       # all parts
    python benchmarks/training_gpu.py FOLDER --parts speed modes
    python benchmarks/training_gpu.py FOLDER --small --device cpu  # checks the script itself

``FOLDER`` holds clean photographs. ``speed``: crops per second of a loop that only has the
network, a loss and the optimizer, on one batch that is on the device already, and of the command
itself, by its log. ``modes``: each precision, memory format and prefetching trains from the same
seed; the mean of the loss over the last steps shows that they agree. ``resume``: a run that is
stopped and resumed.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

import torch
import yaml

from cir_arch import FBCNN
from cir_cli.options_files import find
from cir_host.progress import RECORDS, read_records


def recipe(options: argparse.Namespace) -> dict[str, Any]:
    made: dict[str, Any] = yaml.safe_load(find("fbcnn_s_x1.yml").read_text(encoding="utf-8"))
    train = made["datasets"]["train"]
    train["dataroot_gt"] = [str(folder) for folder in options.folders]
    train.pop("meta_info_file")
    train["num_worker_per_gpu"] = options.workers
    for name in ("val_1", "val_2"):
        made["datasets"].pop(name)
    made.pop("val")
    made["logger"]["save_checkpoint_freq"] = 1e9
    made["logger"]["print_freq"] = 20
    if options.small:
        made["network_g"] |= {"nc": [8, 8, 12, 16], "nb": 1, "quality_nc": 16}
        train |= {"gt_size": 32, "batch_size_per_gpu": 4}
        made["train"]["compile"] = False
    return made


def bare_loop(options: argparse.Namespace, compiled: bool) -> tuple[float, float]:
    """Return crops per second and the peak memory in GiB."""
    made, device = recipe(options), options.device
    batch = made["datasets"]["train"]["batch_size_per_gpu"]
    side = made["datasets"]["train"]["gt_size"]
    arguments = {key: value for key, value in made["network_g"].items() if key != "type"}
    network = FBCNN(**arguments).to(device).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(network.parameters(), 1e-4, fused=device == "cuda")
    gt = torch.rand(batch, 3, side, side, device=device)
    lq = gt.contiguous(memory_format=torch.channels_last)
    known = torch.rand(batch, 1, device=device)
    run = torch.compile(network) if compiled else network
    steps = options.steps

    def step() -> None:
        with torch.autocast(device, torch.bfloat16):
            output, quality = run(lq, return_quality=True)
        error = (output.float() - gt).square().mean((1, 2, 3)) + 1e-5
        (10 * error.log10().mean() + 2 * (quality.float() - known).abs().mean()).backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 20.0)
        optimizer.step()
        optimizer.zero_grad()

    for _ in range(3):
        step()
    if device == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(steps):
        step()
    if device == "cuda":
        torch.cuda.synchronize()
    memory = torch.cuda.max_memory_allocated() / 2**30 if device == "cuda" else 0.0
    return steps * batch / (time.perf_counter() - start), memory


def train(
    options: argparse.Namespace, folder: Path, changes: dict[str, Any], *flags: str
) -> list[tuple[int, float, float, float]]:
    """Run the command.

    Returns:
        For each record of its log: iteration, seconds per step with all waiting, seconds of waiting
        for data, loss on the image.
    """
    made = recipe(options)
    for section, values in changes.items():
        target = made["datasets"]["train"] if section == "data" else made[section]
        target.update(values)
    total = made["train"]["total_iter"]
    made["train"]["scheduler"]["periods"] = [total]
    folder.mkdir(exist_ok=True, parents=True)
    (folder / "run.yml").write_text(yaml.safe_dump(made))
    environment = ["-m", "cir_cli", "train", "-opt", "run.yml", *flags]
    if options.device == "cpu":
        environment += ["--force_yml", "num_gpu=0"]
    done = subprocess.run(
        [sys.executable, *environment],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=options.limit,
    )
    if done.returncode:
        raise RuntimeError((done.stderr or done.stdout)[-800:])
    records = read_records(folder / "experiments" / made["name"] / RECORDS)
    return [
        (r["iter"], r["step_time"] + r["data_time"], r["data_time"], r["l_pix"]) for r in records
    ]


def speed(options: argparse.Namespace) -> None:
    batch = recipe(options)["datasets"]["train"]["batch_size_per_gpu"]
    print(
        "\n| FBCNN-S, bf16, channels last | crops/s | waiting for data | GiB |\n|---|---|---|---|"
    )
    best = 0.0
    for compiled in (False, True):
        if compiled and options.small:
            continue
        rate, memory = bare_loop(options, compiled)
        best = max(best, rate)
        how = "compiled" if compiled else "eager"
        print(f"| bare loop, {how} | {rate:.0f} | | {memory:.1f} |", flush=True)
    with tempfile.TemporaryDirectory() as name:
        rows = train(options, Path(name), {"train": {"total_iter": options.long}})
    late = rows[len(rows) // 2 :]
    per_step = statistics.median(row[1] for row in late)
    waiting = statistics.median(row[2] for row in late) / per_step
    rate = batch / per_step
    print(f"| basicsr train | {rate:.0f} ({rate / best:.0%} of the best loop) | {waiting:.1%} | |")


def modes(options: argparse.Namespace) -> None:
    cases: dict[str, dict[str, Any]] = {
        "float32": {"train": {"amp": "off", "compile": False, "channels_last": False}},
        "bf16": {"train": {"amp": "bf16", "compile": False}},
        "fp16": {"train": {"amp": "fp16", "compile": False}},
        "bf16, compiled": {"train": {"amp": "bf16", "compile": True}},
        "bf16, no prefetching": {
            "train": {"amp": "bf16", "compile": False},
            "data": {"prefetch_mode": None, "pin_memory": False},
        },
        "bf16, float32 samples": {
            "train": {"amp": "bf16", "compile": False},
            "data": {"uint8": False},
        },
    }
    cases = {name: cases[name] for name in options.modes or cases}
    if options.small:
        cases.pop("bf16, compiled", None)
        if options.device == "cpu":
            cases.pop("fp16", None)
    print(f"\n| {options.short} steps from one seed | mean loss of the last lines | s per step |")
    print("|---|---|---|")
    for name, changes in cases.items():
        changes["train"] |= {"total_iter": options.short, "warmup_iter": 10}
        try:
            with tempfile.TemporaryDirectory() as folder:
                rows = train(options, Path(folder), changes)
            loss = statistics.mean(row[3] for row in rows[-2:])
            print(f"| {name} | {loss:.3f} | {rows[-1][1]:.4f} |", flush=True)
        except Exception as error:
            print(f"| {name} | {type(error).__name__}: {str(error)[-300:]} | |", flush=True)


def resume(options: argparse.Namespace) -> None:
    half = {"train": {"total_iter": 40, "compile": False, "warmup_iter": 5}}
    half["logger"] = {"save_checkpoint_freq": 20, "print_freq": 20}
    with tempfile.TemporaryDirectory() as name:
        whole = train(options, Path(name, "whole"), half)
        state = next(Path(name, "whole").rglob("20.state"))
        rows = train(
            options, Path(name, "whole"), half, "--force_yml", f"path:resume_state={state}"
        )
    print(
        f"\nresumed at 20 of 40: {json.dumps(rows[-1:])}, without a stop {json.dumps(whole[-1:])}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("folders", nargs="+", type=Path)
    parts = {"speed": speed, "modes": modes, "resume": resume}
    parser.add_argument("--parts", nargs="+", choices=parts, default=list(parts))
    parser.add_argument("--modes", nargs="+", help="only these, such as fp16")
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--workers", type=int, default=14)
    parser.add_argument("--steps", type=int, default=60, help="of the bare loop")
    parser.add_argument("--long", type=int, default=600, help="iterations of the command")
    parser.add_argument("--short", type=int, default=120, help="iterations of each mode")
    parser.add_argument("--limit", type=int, default=90, help="seconds for each run of the command")
    parser.add_argument("--small", action="store_true", help="a small network and small crops")
    options = parser.parse_args()
    options.folders = [folder.resolve() for folder in options.folders]
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.benchmark = True
    if options.device == "cuda":
        print(
            f"{torch.cuda.get_device_name()}, torch {torch.__version__}, {options.workers} workers"
        )
    for part in options.parts:
        start = time.perf_counter()
        try:
            parts[part](options)
        except Exception:
            traceback.print_exc()
        print(f"({part}: {time.perf_counter() - start:.0f} s)", flush=True)


if __name__ == "__main__":
    main()
