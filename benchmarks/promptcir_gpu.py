"""PromptCIR on a GPU: time and memory of training steps and tiles, and where the time goes.

    python benchmarks/promptcir_gpu.py                        # all parts
    python benchmarks/promptcir_gpu.py --parts layers steps   # some
    python benchmarks/promptcir_gpu.py --small --device cpu   # checks the script itself

The network has its full size and random weights. ``layers`` compares ways to convolve depthwise,
``steps`` and ``tiles`` compare the naive form with ours, ``profile`` lists the slowest kernels.
Each part prints a table as soon as it is measured; one that fails prints its error, and the others
go on. Times are medians.
"""

import argparse
import statistics
import time
import traceback
from collections.abc import Callable

import torch
import torch.nn.functional as F
from naive_promptcir import NaivePromptCIR
from torch import Tensor, nn

from cir_arch import PromptCIR
from cir_arch.compiling import compile_network
from cir_arch.layers.convolution import DepthwiseConv2d, to_image, to_map
from cir_arch.network import entry_named

STEPS = {"warm-up": 3, "timed": 10}


def synchronize(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def milliseconds(run: Callable[[], object], device: str) -> float:
    """Return the median time of a call, after a warm-up."""
    times = []
    for index in range(STEPS["warm-up"] + STEPS["timed"]):
        synchronize(device)
        start = time.perf_counter()
        run()
        synchronize(device)
        if index >= STEPS["warm-up"]:
            times.append(time.perf_counter() - start)
    return 1000 * statistics.median(times)


def peak_gib(device: str) -> float:
    return torch.cuda.max_memory_allocated() / 2**30 if device == "cuda" else 0.0


def reset_peak(device: str) -> None:
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def gated_by_cudnn(x: Tensor, layer: nn.Conv2d) -> Tensor:
    """Convolve and gate by torch's own operations, as the published code does."""
    weight, bias = layer.weight.to(x.dtype), layer.bias
    y = F.conv2d(to_image(x), weight, bias, padding=1, groups=x.shape[-1])
    gate, value = to_map(y).chunk(2, dim=-1)
    return F.gelu(gate) * value


def gated_by_shifts(x: Tensor, layer: nn.Conv2d) -> Tensor:
    """Convolve by nine products with shifted maps, which a compiler fuses."""
    height, width = x.shape[1:3]
    padded = F.pad(x, (0, 0, 1, 1, 1, 1))
    weight = layer.weight.flatten(1).to(x.dtype)
    y = sum(
        padded[:, i : i + height, j : j + width] * weight[:, 3 * i + j]
        for i in range(3)
        for j in range(3)
    )
    gate, value = y.chunk(2, dim=-1)
    return F.gelu(gate) * value


def layers(options: argparse.Namespace) -> None:
    """Compare ways to run the second half of GDFN on maps of a training batch of 8."""
    device = options.device
    ways: dict[str, Callable[[Tensor, nn.Conv2d], Tensor]] = {
        "torch, eager": gated_by_cudnn,
        "torch, compiled": torch.compile(gated_by_cudnn),
        "nine shifts, compiled": torch.compile(gated_by_shifts),
        "our kernel": lambda x, layer: layer.gated(x),
    }
    shapes = [(8, 128, 510), (8, 64, 510), (8, 16, 2042)]
    if options.small:
        shapes = [(1, 16, 30)]
        ways.pop("our kernel")
    print("\n| depthwise 3x3 and gate, bf16 | map | forward, ms | and backward, ms |")
    print("|---|---|---|---|")
    for batch, side, channels in shapes:
        layer = DepthwiseConv2d(channels, bias=False).to(device)
        x = torch.randn(batch, side, side, channels, device=device, dtype=torch.bfloat16)
        x.requires_grad_()
        grad = torch.randn(batch, side, side, channels // 2, device=device, dtype=torch.bfloat16)
        for name, way in ways.items():

            def both(way: Callable[..., Tensor] = way) -> None:
                torch.autograd.grad(way(x, layer), (x, layer.weight), grad)

            def forward(way: Callable[..., Tensor] = way) -> None:
                with torch.no_grad():
                    way(x, layer)

            try:
                row = f"{milliseconds(forward, device):.3f} | {milliseconds(both, device):.3f}"
            except Exception as error:  # one way must not end the table
                row = f"{type(error).__name__}: {str(error)[:80]} |"
            print(f"| {name} | {batch} x {side} x {side} x {channels} | {row} |", flush=True)


def networks(options: argparse.Namespace) -> dict[str, Callable[[], nn.Module]]:
    small = entry_named("PromptCIR").small if options.small else {}

    def naive() -> nn.Module:
        return NaivePromptCIR(**small)

    def compiled() -> nn.Module:
        network = ours()
        compile_network(network)
        return network

    def ours() -> nn.Module:
        return PromptCIR(**small)

    return {"naive": naive, "ours": ours, "ours, compiled": compiled}


CASES = {
    "steps": [
        ("naive", "fp32"),
        ("ours", "fp32"),
        ("ours", "bf16"),
        ("ours, compiled", "bf16"),
    ],
    "tiles": [
        ("naive", "fp32"),
        ("ours", "fp32"),
        ("ours", "bf16"),
        ("ours, compiled", "bf16"),
    ],
}


def compare(options: argparse.Namespace, kind: str) -> None:
    device = options.device
    side, batch = (128, 8) if kind == "steps" else (384, 1)
    if options.small:
        side, batch = 32, 1
    what = f"training step, batch {batch} of" if kind == "steps" else "forward of a tile of"
    print(f"\n| {what} {side} x {side} | ms | times naive | GiB | first call, s |")
    print("|---|---|---|---|---|")
    first = None
    for name, precision in CASES[kind]:
        torch.compiler.reset()
        torch.manual_seed(0)
        reset_peak(device)
        network = networks(options)[name]().to(device)
        x = torch.rand(batch, 3, side, side, device=device)
        parameters = list(network.parameters())
        optimizer = torch.optim.AdamW(parameters, fused=device == "cuda")
        autocast = torch.autocast(device, torch.bfloat16, enabled=precision == "bf16")

        def step(x: Tensor = x, net: nn.Module = network, cast: object = autocast) -> None:
            with cast:  # type: ignore[attr-defined]
                loss = (net(x).float() - x).abs().mean()
            loss.backward()
            optimizer.step()  # noqa: B023
            optimizer.zero_grad()  # noqa: B023

        def tile(x: Tensor = x, net: nn.Module = network, cast: object = autocast) -> None:
            with torch.inference_mode(), cast:  # type: ignore[attr-defined]
                net(x)

        run = step if kind == "steps" else tile
        try:
            start = time.perf_counter()
            run()
            synchronize(device)
            warm = time.perf_counter() - start
            time_of = milliseconds(run, device)
        except Exception as error:
            print(f"| {name}, {precision} | {type(error).__name__}: {str(error)[:200]} | | | |")
            continue
        first = first or time_of
        print(
            f"| {name}, {precision} | {time_of:.1f} | {first / time_of:.2f} |"
            f" {peak_gib(device):.1f} | {warm:.1f} |",
            flush=True,
        )


def profile(options: argparse.Namespace) -> None:
    """List the slowest kernels of a bf16 training step and of a bf16 tile."""
    device = options.device
    activities = [torch.profiler.ProfilerActivity.CPU]
    if device == "cuda":
        activities = [torch.profiler.ProfilerActivity.CUDA]
    for name in ("ours", "ours, compiled") if options.compiled_profile else ("ours",):
        torch.compiler.reset()
        network = networks(options)[name]().to(device)
        for kind in ("step", "tile"):
            side, batch = (128, 8) if kind == "step" else (384, 1)
            if options.small:
                side, batch = 32, 1
            x = torch.rand(batch, 3, side, side, device=device)

            def run(kind: str = kind, x: Tensor = x, network: nn.Module = network) -> None:
                if kind == "step":
                    with torch.autocast(device, torch.bfloat16):
                        loss = network(x).abs().mean()
                    loss.backward()
                else:
                    with torch.inference_mode(), torch.autocast(device, torch.bfloat16):
                        network(x)

            for _ in range(2):
                run()
            synchronize(device)
            with torch.profiler.profile(activities=activities) as seen:
                run()
                synchronize(device)
            events = seen.key_averages()
            key = "self_device_time_total" if device == "cuda" else "self_cpu_time_total"
            rows = sorted(events, key=lambda event: -getattr(event, key))
            total = sum(getattr(event, key) for event in rows) / 1000
            calls = sum(event.count for event in rows)
            print(f"\n{name}, {kind}, bf16: {total:.1f} ms in {calls} kernels")
            print("| ms | calls | kernel |\n|---|---|---|")
            for event in rows[: options.rows]:
                print(f"| {getattr(event, key) / 1000:.2f} | {event.count} | {event.key[:110]} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parts = ("layers", "steps", "tiles", "profile")
    parser.add_argument("--parts", nargs="+", choices=parts, default=parts)
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--small", action="store_true", help="a small network and small maps")
    parser.add_argument("--rows", type=int, default=22, help="kernels that the profile lists")
    parser.add_argument("--compiled-profile", action="store_true", help="also of the compiled form")
    options = parser.parse_args()
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.allow_tf32 = True
    if options.device == "cuda":
        print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, TF32 allowed")
    for part in options.parts:
        start = time.perf_counter()
        try:
            if part in CASES:
                compare(options, part)
            else:
                {"layers": layers, "profile": profile}[part](options)
        except Exception:
            traceback.print_exc()
        print(f"({part}: {time.perf_counter() - start:.0f} s)", flush=True)


if __name__ == "__main__":
    main()
