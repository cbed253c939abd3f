"""Speed and quality of restoring JPEGs, step by step from the published way to ours.

    python benchmarks/restore.py                                   # LIVE1, quality 10, CPU
    python benchmarks/restore.py --weights FILE.pth --images 5     # another PromptCIR, fewer images
    python benchmarks/restore.py --device cuda --precision bf16 --compile

The published way is the script of the NTIRE 2024 winner: always padded, tiles of 384 pixels with an
overlap of 96, float32, one pass, with the naive implementation of the network. The ways take turns
at each image, so that other load on the machine slows all equally. With one thread, seconds are
processor time. Without ``--weights`` the network is random: its times are valid, its gain is not.

``--tiles 128 256`` compares tiles of these sizes with whole images instead. ``--memory
HEIGHTxWIDTH`` instead prints the peak memory of the process beyond the loaded network for one image
of that size, reading and writing included; ``--passes 3`` returns all tiles after the third
unchanged, since they do not raise the peak.
"""

import argparse
import io
import resource
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from naive_promptcir import NaivePromptCIR
from PIL import Image
from torch import Tensor, nn

from cir_arch import PromptCIR, load_network
from cir_cli.options_files import find
from cir_data.images.channels import Samples
from cir_data.images.reading import read
from cir_data.images.writing import Encoding
from cir_model.restoring.inference import Restorer
from cir_model.restoring.pictures import restore_picture
from cir_model.restoring.settings import InferenceOptions

PUBLISHED = {"tile": 384, "overlap": 96, "tiling": "ntire2024"}


def arguments() -> dict[str, Any]:
    """Return the default network's."""
    options = yaml.safe_load(find("promptcir_s_x1.yml").read_text(encoding="utf-8"))
    return {key: value for key, value in options["network_g"].items() if key != "type"}


def load(options: argparse.Namespace) -> nn.Module:
    if options.weights:
        # a training checkpoint does not store ``conv_scale``
        return load_network(options.weights, type="PromptCIR", **arguments())
    torch.manual_seed(0)
    return PromptCIR(**{**arguments(), "zero_last": False}).eval()


def plain_form(network: nn.Module) -> nn.Module:
    """Return the naive implementation with the same weights, in the default network's sizes."""
    sizes = {name: value for name, value in arguments().items() if name != "zero_last"}
    naive = NaivePromptCIR(**sizes).eval()
    naive.load_state_dict(network.state_dict(), strict=False)
    naive.facts = network.facts  # type: ignore[assignment]
    return naive


def now() -> float:
    """Return processor time with one thread, wall-clock time with several or on a GPU."""
    alone = torch.get_num_threads() == 1 and not torch.cuda.is_initialized()
    return time.process_time() if alone else time.perf_counter()


def psnr(image: Samples, original: Samples) -> float:
    error = np.mean((image.astype(float) - original) ** 2)
    return float(10 * np.log10(255**2 / error))


class Clock(nn.Module):
    """Measures the time spent in a network."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.facts = network.facts
        self.seconds = 0.0

    def forward(self, x: Tensor) -> Tensor:
        start = now()
        out: Tensor = self.network(x)
        if out.is_cuda:
            torch.cuda.synchronize()
        if not x.is_meta:
            self.seconds += now() - start
        return out


class First(nn.Module):
    """Passes the first tiles through a network and returns the others unchanged."""

    def __init__(self, network: nn.Module, passes: int) -> None:
        super().__init__()
        self.network = network
        self.facts = network.facts
        self.passes = passes

    def forward(self, x: Tensor) -> Tensor:
        if x.is_meta:
            out: Tensor = self.network(x)
            return out
        self.passes -= 1
        return self.network(x) if self.passes >= 0 else x


def ways(options: argparse.Namespace) -> dict[str, tuple[Clock, Restorer]]:
    network = load(options).to(options.device)
    naive = plain_form(network.cpu()).to(options.device)
    network = network.to(options.device)
    steps: dict[str, tuple[nn.Module, dict[str, Any]]] = {
        "published way, naive network": (naive, PUBLISHED),
        "+ our network, in bands of rows": (network, PUBLISHED),
        "+ our tiles (none where the image fits)": (network, {"tile": "auto"}),
    }
    if options.precision != "fp32":
        how = {"tile": "auto", "precision": options.precision}
        steps[f"+ {options.precision}"] = (network, how)
    made = {}
    for index, (name, (net, how)) in enumerate(steps.items()):
        clock = Clock(net)
        made[name] = clock, Restorer([clock], InferenceOptions(**how))
        if options.compile and index == len(steps) - 1:
            made[name][1].compile()
    return made


def measure(options: argparse.Namespace) -> None:
    restorers = ways(options)
    files = sorted(options.folder.iterdir())[: options.images]
    seconds = dict.fromkeys(restorers, 0.0)
    scores: dict[str, list[float]] = {name: [] for name in restorers}
    inputs, pixels = [], 0
    for index, path in enumerate(
        [files[0], *files]
    ):  # first a corner of the first image, as a warm-up
        original = np.asarray(Image.open(path).convert("RGB"))
        if not index:
            original = original[:128, :128]
        buffer = io.BytesIO()
        Image.fromarray(original).save(buffer, "JPEG", quality=options.quality)
        for name, (clock, restorer) in restorers.items():
            if index == 1:
                clock.seconds = seconds[name] = 0.0
            start = now()
            picture = read(buffer.getvalue(), path.name)
            restored = restore_picture(restorer, picture)
            Encoding("png").encode(restored, path.name)
            seconds[name] += now() - start
            if index:
                scores[name].append(psnr(restored.samples, original))
        if index:
            pixels += original.shape[0] * original.shape[1]
            inputs.append(psnr(picture.samples, original))
    print(f"{len(files)} images, {pixels / 1e6:.2f} MP, input {np.mean(inputs):.3f} dB")
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {options.device}\n")
    print("| | MP/s | speed-up | PSNR, dB | outside the network |\n|---|---|---|---|---|")
    first = next(iter(seconds.values()))
    for name, (clock, _) in restorers.items():
        outside = 1 - clock.seconds / seconds[name]
        print(
            f"| {name} | {pixels / 1e6 / seconds[name]:.3f} | {first / seconds[name]:.2f} |"
            f" {np.mean(scores[name]):.4f} | {100 * outside:.1f} % |"
        )


def measure_tiles(options: argparse.Namespace) -> None:
    network = load(options).to(options.device)
    restorers = {"whole": Restorer([network], InferenceOptions())}
    for tile in options.tiles:
        restorers[f"{tile}"] = Restorer([network], InferenceOptions(tile=tile))
    scores: dict[str, list[float]] = {name: [] for name in restorers}
    apart: dict[str, list[float]] = {name: [] for name in restorers}
    files = sorted(options.folder.iterdir())[: options.images]
    for path in files:
        original = np.asarray(Image.open(path).convert("RGB"))
        buffer = io.BytesIO()
        Image.fromarray(original).save(buffer, "JPEG", quality=options.quality)
        picture = read(buffer.getvalue(), path.name)
        results = {name: restore_picture(r, picture).samples for name, r in restorers.items()}
        for name, samples in results.items():
            scores[name].append(psnr(samples, original))
            apart[name].append(float(np.abs(samples - results["whole"].astype(float)).mean()))
    print("| tile | PSNR, dB | less than whole, dB | worst | mean difference, of 255 |")
    print("|---|---|---|---|---|")
    for name in restorers:
        less = np.subtract(scores["whole"], scores[name])
        print(
            f"| {name} | {np.mean(scores[name]):.4f} | {less.mean():.4f} | {less.max():.4f} |"
            f" {np.mean(apart[name]):.3f} |"
        )


def measure_memory(options: argparse.Namespace) -> None:
    height, width = map(int, options.memory.split("x"))
    noise = np.random.default_rng(0).integers(0, 256, (height // 8, width // 8, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).resize((width, height)).save(buffer, "JPEG", quality=50)
    network = load(options).to(options.device)
    with torch.inference_mode():
        network(torch.rand(1, network.in_channels, 64, 64))  # libraries allocate their buffers
    if options.passes:
        network = First(network, options.passes)
    restorer = Restorer([network], InferenceOptions(tile="auto"))
    loaded = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = now()
    picture = read(buffer.getvalue(), "picture")
    Encoding("png").encode(restore_picture(restorer, picture), "picture")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(
        f"{width} x {height}: {(peak - loaded) / 2**20:.2f} GiB over the loaded network,"
        f" {now() - start:.1f} s, {restorer.describe()['inference']}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--folder", type=Path, default=Path("datasets/LIVE1"))
    parser.add_argument("--images", type=int, help="use only the first N")
    parser.add_argument("--quality", type=int, default=10)
    parser.add_argument(
        "--weights", type=Path, help="checkpoint of a PromptCIR of the default size"
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="fp32", choices=("fp32", "bf16", "fp16"))
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--tiles", type=int, nargs="+", metavar="PIXELS")
    parser.add_argument("--memory", metavar="HEIGHTxWIDTH")
    parser.add_argument(
        "--passes", type=int, help="tiles to pass through the network, with --memory"
    )
    options = parser.parse_args()
    if options.memory:
        measure_memory(options)
    elif options.tiles:
        measure_tiles(options)
    else:
        measure(options)


if __name__ == "__main__":
    main()
