"""Self-ensembles and precision of the inference function."""

import pytest
import torch
from torch import nn

from cir_model.inference import SYMMETRIES, restore_image


class Shift(nn.Module):
    """Moves the image by one pixel to the right: no symmetry of the square commutes with it."""

    def forward(self, x):
        return x.roll(1, -1)


SIZES = {"none": 1, "transpose": 2, "flips": 4, "x8": 8}


@pytest.mark.parametrize(("name", "count"), SIZES.items())
def test_symmetries_are_distinct_and_undone(name, count):
    image = torch.rand(2, 3, 5, 7)
    assert len(SYMMETRIES[name]) == count
    seen = set()
    for apply, undo in SYMMETRIES[name]:
        moved = apply(image)
        assert torch.equal(undo(moved), image)
        seen.add((tuple(moved.shape), moved.contiguous().numpy().tobytes()))
    assert len(seen) == count


@pytest.mark.parametrize("name", SYMMETRIES)
def test_average_equals_the_sum_written_out(name):
    image = torch.rand(1, 1, 4, 6)
    moved = {
        "none": [image.roll(1, -1)],
        "transpose": [image.roll(1, -1), image.roll(1, -2)],
        "flips": [image.roll(1, -1)] * 2 + [image.roll(-1, -1)] * 2,
        "x8": [image.roll(1, -1), image.roll(-1, -1), image.roll(1, -2), image.roll(-1, -2)] * 2,
    }[name]
    expected = torch.stack(moved).mean(0)
    assert torch.allclose(restore_image(Shift(), image, self_ensemble=name), expected, atol=1e-7)


def test_x8_of_an_equivariant_network_is_the_plain_result():
    kernel = torch.tensor([[1.0, 2, 1], [2, 3, 2], [1, 2, 1]]) / 15
    network = nn.Conv2d(1, 1, 3, padding=1, bias=False)
    network.weight.data[:] = kernel
    image = torch.rand(1, 1, 16, 20)
    plain = restore_image(network, image)
    assert torch.allclose(restore_image(network, image, self_ensemble="x8"), plain, atol=1e-6)


def test_precision_is_autocast_and_the_result_float32():
    seen = []

    class Spy(nn.Conv2d):
        def forward(self, x):
            out = super().forward(x)
            seen.append(out.dtype)
            return out

    network = Spy(3, 3, 3, padding=1)
    image = torch.rand(1, 3, 8, 8)
    out = restore_image(network, image, precision="bf16")
    assert seen == [torch.bfloat16]
    assert out.dtype == torch.float32
    assert not out.requires_grad
