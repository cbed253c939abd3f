"""Reproducible weights and inputs, and the outputs that the published networks gave for them."""

import json
import re
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from cir_data.images.jpeg_planes import join

FOLDER = Path(__file__).parent / "conformance"
ENTRY = re.compile(
    r"(?P<call>.+)\.b(?P<batch>\d+)_(?P<height>\d+)x(?P<width>\d+)_seed(?P<seed>\d+)"
)


@dataclass(frozen=True)
class Vector:
    """What one call of a published network gave for one input."""

    call: str
    input: torch.Tensor
    expected: torch.Tensor
    seed: int
    """Of the input; further inputs are drawn from it, too."""

    def deviation(self, output):
        """Largest difference, in units of what float32 may differ by: at most 1 is agreement."""
        tolerance = 1e-4 * max(1.0, self.expected.std().item())
        return (output.float() - self.expected).abs().max().item() / tolerance


def normal(key, shape):
    """Standard normal float32 values that depend on the key's name alone."""
    generator = np.random.Generator(np.random.PCG64(zlib.crc32(key.encode())))
    return torch.from_numpy(generator.standard_normal(shape).astype(np.float32))


def scaled(key, noise):
    """Turn noise into values of the size that a trained entry of this name and shape has."""
    if key.endswith("running_var"):
        return 0.5 + 0.5 * noise.abs()
    if key.endswith("running_mean"):
        return 0.1 * noise
    if noise.ndim < 2 or key.endswith("temperature"):
        return 0.1 * noise if key.endswith("bias") else 1 + 0.1 * noise
    if "relative_position_bias_table" in key:
        return 0.5 * noise
    if "prompt" in key and noise.ndim >= 5:
        return noise
    return noise.double() / max(noise[0].numel(), 1) ** 0.5


def fill(state_dict):
    """Return a state dict with every float entry drawn anew; integer entries are kept."""
    return {
        key: scaled(key, normal(key, tuple(value.shape))).to(value.dtype)
        if value.is_floating_point()
        else value
        for key, value in state_dict.items()
    }


def image(height, width, seed=0, batch=1):
    """Return random RGB images (batch, 3, height, width) in [0, 1)."""
    generator = np.random.Generator(np.random.PCG64(seed))
    return torch.from_numpy(generator.random((batch, 3, height, width), dtype=np.float32))


def coefficients(height, width, seed=0, batch=1):
    """Return planes of coefficients and steps that JDEC maps to values in [-1, 1)."""

    def drawn(rows, columns, offset):
        return 2040 * image(rows, columns, seed + offset, batch) - 1024

    def blocks(plane):
        return plane.unflatten(1, (-1, 8)).unflatten(0, (-1, 8)).transpose(1, 2).numpy()

    inputs = zip(
        drawn(height, width, 0)[:, 0],
        drawn(height // 2, width // 2, 1000)[:, 1:],
        drawn(8, 8, 2000)[:, :2].numpy(),
        strict=True,
    )
    planes = [join(blocks(y), [blocks(c) for c in chroma], list(t)) for y, chroma, t in inputs]
    return torch.from_numpy(np.stack(planes))


def published_shapes(name):
    """Shapes of a published network's state-dict entries, and its number of parameters."""
    facts = json.loads((FOLDER / f"{name}.keys.json").read_text())
    return {key: tuple(shape) for key, shape in facts["keys"].items()}, facts["parameters"]


def vectors(name):
    """Return the stored outputs of a published network with the weights of ``fill``."""
    found = []
    with np.load(FOLDER / f"{name}.npz") as stored:
        for entry in stored.files:
            parts = ENTRY.fullmatch(entry).groupdict()
            call = parts.pop("call")
            numbers = {key: int(value) for key, value in parts.items()}
            given = coefficients(**numbers) if call == "coefficients" else image(**numbers)
            wanted = torch.from_numpy(stored[entry])
            found.append(Vector(call, given, wanted, numbers["seed"]))
    return found


def shapes(network):
    """Shapes of a network's state-dict entries."""
    return {key: tuple(value.shape) for key, value in network.state_dict().items()}


def parameter_count(network):
    """Count a network's parameters."""
    return sum(parameter.numel() for parameter in network.parameters())


def filled(network):
    """Load the weights of ``fill`` into a network and set it to eval mode."""
    network.load_state_dict(fill(network.state_dict()))
    return network.eval()
