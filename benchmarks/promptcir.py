"""Time and memory of PromptCIR against the plain form of its formulas, in one run.

    python benchmarks/promptcir.py                     # CPU, the published network, 128x128
    python benchmarks/promptcir.py --device cuda --batch 24 --compile

Both have the same weights. Times are medians of interleaved runs, so that a busy machine disturbs
both alike; memory is what a process of its own needs at its peak beyond the loaded network.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from naive_promptcir import NaivePromptCIR
from torch import Tensor, nn

from cir_arch import PromptCIR

FORMS: dict[str, Callable[[], nn.Module]] = {"naive": NaivePromptCIR, "ours": PromptCIR}
TASKS = ("forward fp32", "forward bf16", "training step fp32", "training step bf16")


def run_task(network: nn.Module, task: str, x: Tensor) -> None:
    """One forward pass without gradients, or one forward and backward pass."""
    bf16 = torch.autocast(x.device.type, torch.bfloat16, enabled=task.endswith("bf16"))
    if task.startswith("forward"):
        with torch.no_grad(), bf16:
            network(x)
    else:
        network.zero_grad(set_to_none=True)
        with bf16:
            loss = (network(x).float() - 0.5).abs().mean()
        loss.backward()
    if x.is_cuda:
        torch.cuda.synchronize()


def seconds(networks: dict[str, nn.Module], task: str, x: Tensor, runs: int) -> dict[str, float]:
    """Median time of each network, in turn."""
    times: dict[str, list[float]] = {form: [] for form in networks}
    for i in range(runs + 1):
        for form, network in networks.items():
            start = time.perf_counter()
            run_task(network, task, x)
            if i:  # the first is warm-up
                times[form].append(time.perf_counter() - start)
    return {form: statistics.median(values) for form, values in times.items()}


def build(form: str, options: argparse.Namespace) -> nn.Module:
    torch.manual_seed(0)
    network = FORMS[form]().to(options.device)
    if form == "ours" and options.compile:
        network.compile()  # in place: the state dict keeps its keys
    return network


def peak_mebibytes(form: str, task: str, options: argparse.Namespace) -> float:
    """Peak memory beyond the loaded network, in this process."""
    network, x = build(form, options), image(options)
    if x.is_cuda:
        run_task(network, task, x)  # leaves compilation out
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run_task(network, task, x)
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    Path("/proc/self/clear_refs").write_text("5")  # peak = present; Linux
    before = process_kibibytes("VmRSS")
    run_task(network, task, x)
    return (process_kibibytes("VmHWM") - before) / 2**10


def process_kibibytes(entry: str) -> int:
    """Read this process's present (VmRSS) or peak (VmHWM) memory; getrusage has its parent's."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(entry))


def image(options: argparse.Namespace) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    shape = (options.batch, 3, options.size, options.size)
    return torch.rand(shape, generator=generator).to(options.device)


def measured_apart(form: str, task: str, arguments: list[str]) -> float:
    """Measure memory in a process of its own, whose peak nothing else has raised."""
    command = [sys.executable, __file__, *arguments, "--memory-of", form, task]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: float = json.loads(done.stdout)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--runs", type=int, default=5, help="counted runs of each (default: 5)")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--compile", action="store_true", help="compile ours")
    parser.add_argument("--memory-of", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.memory_of:
        print(json.dumps(peak_mebibytes(*options.memory_of, options)))
        return
    networks = {form: build(form, options) for form in FORMS}
    networks["ours"].load_state_dict(networks["naive"].state_dict())
    x = image(options)
    print(
        f"torch {torch.__version__}, {options.device}, {torch.get_num_threads()} threads, batch"
        f" {options.batch} of {options.size}x{options.size}, medians of {options.runs}."
        f" In brackets: against naive fp32.\n"
    )
    print("| task | naive, s | ours, s | times as fast | naive, MiB | ours, MiB | of the memory |")
    print("|---|---|---|---|---|---|---|")
    in_fp32: dict[str, tuple[float, float]] = {}
    for task in TASKS:
        times = seconds(networks, task, x, options.runs)
        peaks = {form: measured_apart(form, task, sys.argv[1:]) for form in FORMS}
        # Of each kind of task the one in fp32 comes first.
        slow, large = in_fp32.setdefault(task.split()[0], (times["naive"], peaks["naive"]))
        print(
            f"| {task} | {times['naive']:.3f} | {times['ours']:.3f}"
            f" | {times['naive'] / times['ours']:.2f} ({slow / times['ours']:.2f})"
            f" | {peaks['naive']:.0f} | {peaks['ours']:.0f}"
            f" | {peaks['ours'] / peaks['naive']:.2f} ({peaks['ours'] / large:.2f}) |",
            flush=True,
        )


if __name__ == "__main__":
    main()
