"""PromptCIR on a GPU: time and memory of training steps and tiles, and where the time goes.

    python benchmarks/promptcir_gpu.py                          # all parts
    python benchmarks/promptcir_gpu.py --parts steps --forms naive compiled
    python benchmarks/promptcir_gpu.py --small --device cpu     # checks the script itself

The network has its full size and random weights. ``steps`` and ``tiles`` compare the naive form
with ours; ``profile`` lists the slowest kernels of ours. A form that fails prints its error, and
the others go on. Times are medians.
"""

import argparse
import statistics
import time
import traceback
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial

import torch
from naive_promptcir import NaivePromptCIR
from torch import Tensor, nn
from torch.autograd import DeviceType

from cir_arch import PromptCIR
from cir_arch.network import entry_named

WARM_UP, TIMED = 3, 10

FORMS = ("naive", "ours", "graph", "compiled")
"""``graph``: ours, recorded once and replayed as a CUDA graph; tiles only."""

CASES = {
    "steps": [("naive", "fp32"), ("ours", "fp32"), ("ours", "bf16"), ("compiled", "bf16")],
    "tiles": [
        ("naive", "fp32"),
        ("ours", "fp32"),
        ("ours", "bf16"),
        ("graph", "fp32"),
        ("graph", "bf16"),
        ("compiled", "bf16"),
    ],
}


class Part:
    """Sizes and helpers of one part."""

    def __init__(self, options: argparse.Namespace, kind: str) -> None:
        self.device = options.device
        self.small = options.small
        self.training = kind == "steps"
        side, batch = (128, 8) if self.training else (384, 1)
        if options.small:
            side, batch = 32, 1
        self.image = torch.rand(batch, 3, side, side, device=self.device)
        self.title = (
            f"{'training step' if self.training else 'forward'} of {batch} x {side} x {side}"
        )

    def network(self, form: str) -> nn.Module:
        torch.manual_seed(0)
        arguments = entry_named("PromptCIR").small if self.small else {}
        kind = NaivePromptCIR if form == "naive" else PromptCIR
        network = kind(**arguments).to(self.device)
        if form == "compiled":
            network.compile(dynamic=False)
        return network

    def cast(self, precision: str) -> AbstractContextManager[None]:
        return torch.autocast(self.device, torch.bfloat16, enabled=precision == "bf16")

    def synchronize(self) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()

    def runner(self, form: str, precision: str) -> Callable[[], object]:
        network = self.network(form)
        if not self.training:
            run = partial(self._forward, network, precision)
            return self._recorded(run) if form == "graph" else run
        fused = self.device == "cuda"
        optimizer = torch.optim.AdamW(network.parameters(), fused=fused)
        return partial(self._step, network, optimizer, precision)

    def _forward(self, network: nn.Module, precision: str) -> Tensor:
        with torch.inference_mode(), self.cast(precision):
            out: Tensor = network(self.image)
        return out

    def _step(self, network: nn.Module, optimizer: torch.optim.Optimizer, precision: str) -> None:
        with self.cast(precision):
            loss = (network(self.image).float() - self.image).abs().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    def _recorded(self, run: Callable[[], object]) -> Callable[[], object]:
        side = torch.cuda.Stream()
        with torch.cuda.stream(side):
            for _ in range(2):
                run()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            run()
        return graph.replay

    def milliseconds(self, run: Callable[[], object]) -> float:
        times = []
        for index in range(WARM_UP + TIMED):
            self.synchronize()
            start = time.perf_counter()
            run()
            self.synchronize()
            if index >= WARM_UP:
                times.append(time.perf_counter() - start)
        return 1000 * statistics.median(times)


def compare(options: argparse.Namespace, kind: str) -> None:
    part = Part(options, kind)
    print(f"\n| {part.title} | ms | times naive | GiB | first call, s |\n|---|---|---|---|---|")
    first = None
    for form, precision in CASES[kind]:
        if form not in options.forms or (form == "graph" and part.device == "cpu"):
            continue
        torch.compiler.reset()
        if part.device == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        try:
            run = part.runner(form, precision)
            start = time.perf_counter()
            run()
            part.synchronize()
            warm = time.perf_counter() - start
            milliseconds = part.milliseconds(run)
        except Exception as error:
            print(f"| {form}, {precision} | {type(error).__name__}: {str(error)[:300]} | | | |")
            continue
        first = first or milliseconds
        gib = torch.cuda.max_memory_allocated() / 2**30 if part.device == "cuda" else 0.0
        print(
            f"| {form}, {precision} | {milliseconds:.1f} | {first / milliseconds:.2f} |"
            f" {gib:.1f} | {warm:.1f} |",
            flush=True,
        )
        if options.profile_too and form == "compiled":
            profile_of(part, run, form, options.rows)
        del run


def profile(options: argparse.Namespace) -> None:
    """List the slowest kernels of a bf16 training step and of a bf16 tile."""
    for kind in ("steps", "tiles"):
        part = Part(options, kind)
        run = part.runner("ours", "bf16")
        for _ in range(2):
            run()
        profile_of(part, run, "ours", options.rows)


def profile_of(part: Part, run: Callable[[], object], form: str, rows: int) -> None:
    gpu = part.device == "cuda"
    kinds = torch.profiler.ProfilerActivity
    part.synchronize()
    with torch.profiler.profile(activities=[kinds.CUDA if gpu else kinds.CPU]) as seen:
        start = time.perf_counter()
        run()
        part.synchronize()
        wall = 1000 * (time.perf_counter() - start)
    key = "self_device_time_total" if gpu else "self_cpu_time_total"
    events = [
        event
        for event in seen.key_averages()
        if not gpu or event.device_type == DeviceType.CUDA  # not the calls that launch kernels
    ]
    events.sort(key=lambda event: -getattr(event, key))
    total = sum(getattr(event, key) for event in events) / 1000
    calls = sum(event.count for event in events)
    print(
        f"\n{form}, {part.title}, bf16: {total:.1f} ms in {calls} kernels, {wall:.1f} ms by clock"
    )
    print("| ms | calls | kernel |\n|---|---|---|")
    for event in events[:rows]:
        print(f"| {getattr(event, key) / 1000:.2f} | {event.count} | {event.key[:110]} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parts = ("steps", "tiles", "profile")
    parser.add_argument("--parts", nargs="+", choices=parts, default=parts)
    parser.add_argument("--forms", nargs="+", choices=FORMS, default=FORMS)
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--small", action="store_true", help="a small network and small maps")
    parser.add_argument("--rows", type=int, default=22, help="kernels that the profile lists")
    parser.add_argument("--profile-too", action="store_true", help="profile the compiled form")
    options = parser.parse_args()
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.allow_tf32 = True
    if options.device == "cuda":
        print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, TF32 allowed")
    for part in options.parts:
        start = time.perf_counter()
        try:
            profile(options) if part == "profile" else compare(options, part)
        except Exception:
            traceback.print_exc()
        print(f"({part}: {time.perf_counter() - start:.0f} s)", flush=True)


if __name__ == "__main__":
    main()
