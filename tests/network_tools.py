"""What the tests of all networks do with a network."""

import contextlib

import numpy as np
import torch
from vector_tools import image

from cir_arch.running import run


def restore(network, x, precision="fp32", **inputs):
    """Run a network without gradients, under autocast where precision is not fp32."""
    dtypes = {"bf16": torch.bfloat16, "fp16": torch.float16}
    autocast = contextlib.nullcontext()
    if precision in dtypes:
        autocast = torch.autocast("cpu", dtypes[precision])
    with torch.inference_mode(), autocast:
        return network(x, **inputs)


def input_for(facts, height, width, seed=0, batch=1):
    """Return an image; for a network that takes coefficients, planes of at least this size."""
    if facts.input_kind == "coefficients":
        height, width = (-(-side // facts.min_size) * facts.min_size for side in (height, width))
        return 1000 * image(height, width, seed=seed, batch=batch) - 500
    return image(height, width, seed=seed, batch=batch)[:, : facts.in_channels]


def error(output, expected):
    """Root mean square difference over the standard deviation of what is expected."""
    return ((output.float() - expected).square().mean().sqrt() / expected.std()).item()


def padded(x, bottom, right, mode):
    """Pad (B, C, H, W) at bottom and right by numpy's mode of this name."""
    return torch.from_numpy(np.pad(x.numpy(), ((0, 0), (0, 0), (0, bottom), (0, right)), mode))


def gradients(network, x, **arguments):
    """Return the gradient of every parameter for a loss that weights each output pixel alone."""
    network.zero_grad()
    out = network(x, **arguments)
    (out * image(*out.shape[-2:], seed=9, batch=out.shape[0])).sum().backward()
    return {name: parameter.grad for name, parameter in network.named_parameters()}


def gradient_sizes(network, x, **inputs):
    """Return the largest magnitude in the gradient of every parameter."""
    return {
        name: 0.0 if gradient is None else gradient.abs().max().item()
        for name, gradient in gradients(network, x, **inputs).items()
    }


def without_gradient(network, x):
    """Name the parameters that do not change the output."""
    found = gradients(network, x)
    return {name for name, gradient in found.items() if gradient is None or not gradient.any()}


def assert_same_gradients(network, other, x):
    """Two networks with equal weights train alike."""
    other.load_state_dict(network.state_dict())
    found = gradients(other, x)
    for name, gradient in gradients(network, x).items():
        torch.testing.assert_close(found[name], gradient, msg=name)


def assert_all_occur(outcomes, out):
    """Every sample of a batch is one of the outcomes, (1, H, W, C) each, and every one occurs."""
    distances = torch.stack([(out - outcome).abs().amax((1, 2, 3)) for outcome in outcomes], 1)
    assert distances.amin(1).max() < 1e-4
    assert set(distances.argmin(1).tolist()) == set(range(len(outcomes)))


def assert_loads_what_it_saves(make, path):
    """A new network of the same arguments gives the same image from a checkpoint."""
    first, second = make(), make()
    torch.save(first.state_dict(), path)
    second.load_state_dict(torch.load(path, weights_only=True))
    x = image(20, 28)
    torch.testing.assert_close(restore(second.eval(), x), restore(first.eval(), x), rtol=0, atol=0)


def reach(network, facts):
    """Return the largest distance of an input pixel to an output pixel that depends on it.

    Over all positions that windows and strides tell apart, along both axes, in float64, where the
    gradient outside the receptive field is exactly zero.
    """
    period, scale = facts.size_multiple, facts.scale
    start = (
        -(-(facts.halo + 2) // period) * period
    )  # so far from the border that it does not matter
    x = image(max(period, 8), 2 * start + period)[:, : facts.in_channels].double()
    network.requires_grad_(False)  # saves half of the time
    farthest = 0
    for axis in (2, 3):
        turned = (x if axis == 3 else x.mT).clone().requires_grad_()
        out = run(network, turned)
        for position in range(start * scale, (start + period) * scale):
            line = out.select(axis, position)
            weights = torch.rand(line.shape, dtype=line.dtype)
            (gradient,) = torch.autograd.grad((line * weights).sum(), turned, retain_graph=True)
            used = gradient.movedim(axis, 0).flatten(1).any(1).nonzero().flatten()
            distances = (used - position // scale).abs()
            farthest = max(farthest, distances.max().item())
    return farthest
