"""Time and memory of CODiff at its real size, with random weights.

    python benchmarks/codiff.py                           # 512x512, on the CPU
    python benchmarks/codiff.py --size 1024x1024 --device cuda --precision fp16

Random weights take the time of trained ones. The peak of memory is that of the process on a CPU,
and of PyTorch's tensors on a GPU; the estimate is what decides about tiles.
"""

import argparse
import resource
import time
from collections.abc import Callable
from typing import TypeVar

import torch

from cir_arch.cave_arch import CaVEEncoder
from cir_cli.flag_types import image_size
from cir_diffusion.base import Base, build_part
from cir_diffusion.codiff import CODiff
from cir_diffusion.noise_schedule import NoiseSchedule
from cir_model.restoring.inference import AUTOCAST
from cir_model.restoring.memory import bytes_per_pixel

UNET = {
    "sample_size": 64,
    "block_out_channels": [320, 640, 1280, 1280],
    "attention_head_dim": [5, 10, 20, 20],
    "cross_attention_dim": 1024,
    "use_linear_projection": True,
    "down_block_types": [*["CrossAttnDownBlock2D"] * 3, "DownBlock2D"],
    "up_block_types": ["UpBlock2D", *["CrossAttnUpBlock2D"] * 3],
}
VAE = {
    "block_out_channels": [128, 256, 512, 512],
    "layers_per_block": 2,
    "latent_channels": 4,
    "sample_size": 768,
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
}
"""Of stable-diffusion-2-1-base, where they are not diffusers' defaults."""

Result = TypeVar("Result")


def random_codiff() -> CODiff:
    """Build CODiff at its real size, ready for use, with new weights."""
    schedule = NoiseSchedule(0.00085, 0.012, 1000)
    base = Base(build_part("unet", UNET), build_part("vae", VAE), schedule)
    return CODiff(base, CaVEEncoder(), torch.nn.Linear(512, 1024)).requires_grad_(False).eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--size", type=image_size, default=(512, 512), metavar="HxW")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", choices=("fp32", *AUTOCAST), default="fp32")
    options = parser.parse_args()
    device = torch.device(options.device)
    codiff = random_codiff().to(device)
    x = torch.rand(1, 3, *options.size, device=device)
    height, width = options.size
    used = "" if device.type != "cpu" else f", {torch.get_num_threads()} threads"
    print(f"{height} x {width} pixels, {options.precision}, {device.type}{used}")
    estimate = bytes_per_pixel(codiff, codiff.facts)
    print(f"before the first call: {peak(device):.2f} GiB; estimate {estimate:.0f} bytes a pixel")
    dtype = AUTOCAST.get(options.precision)
    with torch.inference_mode(), torch.autocast(device.type, dtype, enabled=dtype is not None):
        for _ in range(1 if device.type == "cpu" else 2):  # the first on a GPU loads its libraries
            context = timed("CaVE", device, codiff.tokens, x)
            latent = timed("VAE encoder", device, codiff.latent, x)
            noise = timed("UNet", device, codiff.predicted_noise, latent, context)
            timed("VAE decoder", device, codiff.image, codiff.denoised(latent, noise))


def timed(
    name: str, device: torch.device, compute: Callable[..., Result], *inputs: torch.Tensor
) -> Result:
    start = time.perf_counter()
    result = compute(*inputs)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    print(f"{name}: {time.perf_counter() - start:.2f} s, peak so far {peak(device):.2f} GiB")
    return result


def peak(device: torch.device) -> float:
    """Return the largest number of GiB so far."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


if __name__ == "__main__":
    main()
