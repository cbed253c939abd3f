"""Time and memory of every network against its naive implementation, in one run.

    python benchmarks/networks.py                      # CPU, all published networks
    python benchmarks/networks.py HAT UCIP --runs 3
    python benchmarks/networks.py --device cuda --batch 8 --compile --tasks forward training

Both get the same weights; the script first checks that their outputs agree. Times are medians of
interleaved runs, so that other load on the machine slows both equally. Memory is the peak beyond
the loaded network, measured in a separate process. Both networks are in eval mode.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from naive_forms import NAIVE
from torch import Tensor, nn

from cir_arch.network import entry_named

SIDES = {"HAT": 64, "HFT": 64, "GRL": 144}
"""Side of the image for networks that take too long at 128, or whose multiple it is not."""
ARGUMENTS: dict[str, dict[str, Any]] = {"UCIP": {"codec": 0}}
"""Further arguments of ``forward``."""
FORMS = ("naive", "ours")
TASKS = ("forward fp32", "forward bf16", "training fp32", "training bf16")


def run_task(network: nn.Module, task: str, x: Tensor, arguments: dict[str, Any]) -> None:
    """One forward pass without gradients, or one forward and backward pass."""
    bf16 = torch.autocast(x.device.type, torch.bfloat16, enabled=task.endswith("bf16"))
    if task.startswith("forward"):
        with torch.no_grad(), bf16:
            network(x, **arguments)
    else:
        network.zero_grad(set_to_none=True)
        with bf16:
            loss = (network(x, **arguments).float() - 0.5).abs().mean()
        loss.backward()
    if x.is_cuda:
        torch.cuda.synchronize()


def seconds(
    networks: dict[str, nn.Module], task: str, x: Tensor, arguments: dict[str, Any], runs: int
) -> dict[str, float]:
    """Median time of each network, in turn."""
    times: dict[str, list[float]] = {form: [] for form in networks}
    for i in range(runs + 1):
        for form, network in networks.items():
            start = time.perf_counter()
            run_task(network, task, x, arguments)
            if i:  # the first is warm-up
                times[form].append(time.perf_counter() - start)
    return {form: statistics.median(values) for form, values in times.items()}


def build(name: str, form: str, options: argparse.Namespace) -> nn.Module:
    torch.manual_seed(0)
    network: nn.Module = (NAIVE[name] if form == "naive" else entry_named(name).load())()
    network.eval().to(options.device)
    if form == "ours" and options.compile:
        network.compile()  # in place: the state dict keeps its keys
    return network


def check_agreement(networks: dict[str, nn.Module], x: Tensor, arguments: dict[str, Any]) -> None:
    """Exit if the outputs differ, as the comparison would mean nothing."""
    with torch.no_grad():
        ours, naive = (networks[form](x, **arguments) for form in ("ours", "naive"))
    difference = ((ours - naive).abs().max() / naive.std()).item()
    if not difference < 1e-2:  # TF32 and compilers round; a mistake is larger
        sys.exit(f"the outputs differ by {difference:.1e} standard deviations of the image")


def peak_mebibytes(name: str, form: str, task: str, options: argparse.Namespace) -> float:
    """Peak memory beyond the loaded network, in this process."""
    network, x = build(name, form, options), image(name, options)
    arguments = ARGUMENTS.get(name, {})
    if x.is_cuda:
        run_task(network, task, x, arguments)  # warm-up, which also compiles
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run_task(network, task, x, arguments)
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak to the current value; Linux
    before = process_kibibytes("VmRSS")
    run_task(network, task, x, arguments)
    return (process_kibibytes("VmHWM") - before) / 2**10


def process_kibibytes(entry: str) -> int:
    """Read the current (VmRSS) or peak (VmHWM) memory; getrusage keeps the parent's peak."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(entry))


def image(name: str, options: argparse.Namespace) -> Tensor:
    side = options.size or SIDES.get(name, 128)
    generator = torch.Generator().manual_seed(0)
    return torch.rand((options.batch, 3, side, side), generator=generator).to(options.device)


def measured_apart(name: str, form: str, task: str, arguments: list[str]) -> float:
    """Measure peak memory in a separate process, where nothing else has raised it."""
    command = [sys.executable, __file__, *arguments, "--memory-of", name, form, task]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: float = json.loads(done.stdout)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NETWORK", help="default: all")
    parser.add_argument(
        "--size", type=int, help="side of the image (default: 128; HAT, HFT: 64; GRL: 144)"
    )
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--runs", type=int, default=5, help="counted runs of each (default: 5)")
    parser.add_argument(
        "--tasks",
        nargs="+",
        default=TASKS[:3],
        help=f"prefixes of: {', '.join(TASKS)} (default: all but the last)",
    )
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--compile", action="store_true", help="compile ours")
    parser.add_argument("--memory-of", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.memory_of:
        print(json.dumps(peak_mebibytes(*options.memory_of, options)))
        return
    if unknown := set(options.names) - set(NAIVE):
        parser.error(f"{', '.join(sorted(unknown))}: give some of {', '.join(NAIVE)}")
    print(
        f"torch {torch.__version__}, {options.device}, {torch.get_num_threads()} threads, batch"
        f" {options.batch}, medians of {options.runs}.\n"
    )
    print(
        "| network | task | naive, s | ours, s | speed-up | naive, MiB | ours, MiB | memory ratio |"
    )
    print("|---|---|---|---|---|---|---|---|")
    tasks = [task for task in TASKS if task.startswith(tuple(options.tasks))]
    for name in options.names or NAIVE:
        networks = {form: build(name, form, options) for form in FORMS}
        networks["ours"].load_state_dict(networks["naive"].state_dict())
        x, arguments = image(name, options), ARGUMENTS.get(name, {})
        check_agreement(networks, x, arguments)
        for task in tasks:
            times = seconds(networks, task, x, arguments, options.runs)
            peaks = {form: measured_apart(name, form, task, sys.argv[1:]) for form in FORMS}
            print(
                f"| {name} {x.shape[-1]}x{x.shape[-1]} | {task} | {times['naive']:.3f}"
                f" | {times['ours']:.3f} | {times['naive'] / times['ours']:.2f}"
                f" | {peaks['naive']:.0f} | {peaks['ours']:.0f}"
                f" | {peaks['ours'] / peaks['naive']:.2f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
