"""What the tests of all networks do with a network."""

import contextlib

import numpy as np
import torch
from vector_tools import image


def restore(network, x, precision="fp32"):
    """Run a network without gradients, under autocast where precision is not fp32."""
    dtypes = {"bf16": torch.bfloat16, "fp16": torch.float16}
    autocast = contextlib.nullcontext()
    if precision in dtypes:
        autocast = torch.autocast("cpu", dtypes[precision])
    with torch.inference_mode(), autocast:
        return network(x)


def error(output, expected):
    """Root mean square difference over the standard deviation of what is expected."""
    return ((output.float() - expected).square().mean().sqrt() / expected.std()).item()


def padded(x, bottom, right, mode):
    """Pad (B, C, H, W) at bottom and right by numpy, mode ``reflect`` or ``edge``."""
    return torch.from_numpy(np.pad(x.numpy(), ((0, 0), (0, 0), (0, bottom), (0, right)), mode))


def gradients(network, x, **arguments):
    """Return the gradient of every parameter for a loss that weights each output pixel alone."""
    network.zero_grad()
    out = network(x, **arguments)
    (out * image(*out.shape[-2:], seed=9, batch=out.shape[0])).sum().backward()
    return {name: parameter.grad for name, parameter in network.named_parameters()}


def gradient_sizes(network, x):
    """Return the largest magnitude in the gradient of every parameter."""
    return {
        name: 0.0 if gradient is None else gradient.abs().max().item()
        for name, gradient in gradients(network, x).items()
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


def assert_loads_what_it_saves(make, path):
    """A new network of the same arguments gives the same image from a checkpoint."""
    first, second = make(), make()
    torch.save(first.state_dict(), path)
    second.load_state_dict(torch.load(path, weights_only=True))
    x = image(20, 28)
    torch.testing.assert_close(restore(second.eval(), x), restore(first.eval(), x), rtol=0, atol=0)
