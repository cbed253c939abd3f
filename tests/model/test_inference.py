"""Ensembles, precision and memory of inference."""

from dataclasses import replace

import pytest
import torch
from basicsr.archs import build_network
from small_networks import SMALL
from torch import nn
from vector_tools import filled

from cir_arch import Identity
from cir_arch.facts import NetworkFacts
from cir_host.errors import OptionsError, UserError
from cir_host.typed_options import typed
from cir_model.restoring import memory
from cir_model.restoring.inference import Restorer, restore_tensor
from cir_model.restoring.settings import InferenceOptions
from cir_model.restoring.symmetry import SYMMETRIES
from cir_model.restoring.tile_plan import TilePlanner


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
    assert torch.allclose(restore_tensor(Shift(), image, self_ensemble=name), expected, atol=1e-7)


def test_x8_of_an_equivariant_network_is_the_plain_result():
    kernel = torch.tensor([[1.0, 2, 1], [2, 3, 2], [1, 2, 1]]) / 15
    network = nn.Conv2d(1, 1, 3, padding=1, bias=False)
    network.weight.data[:] = kernel
    image = torch.rand(1, 1, 16, 20)
    plain = restore_tensor(network, image)
    assert torch.allclose(restore_tensor(network, image, self_ensemble="x8"), plain, atol=1e-6)


def test_precision_is_autocast_and_the_result_float32():
    seen = []

    class Spy(nn.Conv2d):
        def forward(self, x):
            out = super().forward(x)
            seen.append(out.dtype)
            return out

    network = Spy(3, 3, 3, padding=1)
    image = torch.rand(1, 3, 8, 8)
    out = restore_tensor(network, image, precision="bf16")
    assert seen == [torch.bfloat16]
    assert out.dtype == torch.float32
    assert not out.requires_grad


class Plain(nn.Module):
    """A network with facts, whose forward a test gives."""

    def __init__(self, forward, multiple=1, scale=1, precisions=("fp32", "bf16", "fp16")):
        super().__init__()
        self.act = forward
        self.facts = NetworkFacts(
            size_multiple=multiple,
            min_size=1,
            scale=scale,
            halo=0,
            in_channels=3,
            precisions=frozenset(precisions),
        )

    def forward(self, x):
        return self.act(x)


def test_several_networks_are_averaged():
    image = torch.rand(1, 3, 20, 30)
    networks = [Plain(lambda x: x + 1), Plain(lambda x: x * 3)]
    out = Restorer(networks, InferenceOptions())(image)
    assert torch.allclose(out, 2 * image + 0.5)


def test_non_finite_tiles_are_redone_in_fp32(caplog):
    dtypes = []

    def overflows(x):
        half = torch.is_autocast_enabled("cpu")
        dtypes.append(half)
        dark = x.mean() < 0.25
        return x / 0 if half and dark else x

    image = torch.rand(1, 3, 16, 64) * 0.5 + 0.5
    image[..., 16:32] = 0
    restorer = Restorer([Plain(overflows)], InferenceOptions(tile=16, overlap=0, precision="bf16"))
    assert torch.equal(restorer(image), image)
    assert dtypes == [True, True, False, True, True]
    assert restorer.describe()["passes redone in fp32"] == "1"
    assert "redone in fp32" in caplog.text


def test_values_that_stay_non_finite_are_an_error():
    with pytest.raises(UserError, match="not finite, not even in fp32"):
        restore_tensor(Plain(lambda x: x / 0), torch.rand(1, 3, 8, 8))


def runs_out_above(side):
    def forward(x):
        if max(x.shape[-2:]) > side:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried ...")
        return x

    return forward


def test_out_of_memory_halves_the_tile_and_says_so(caplog):
    image = torch.rand(1, 3, 90, 300)
    network = Plain(runs_out_above(80))
    restorer = Restorer([network], InferenceOptions(overlap=16))
    assert torch.equal(restorer(image), image)
    assert "Out of memory at 90 x 160 pixels; restarting the image in tiles of 80" in caplog.text
    caplog.clear()
    assert torch.equal(restorer(image), image), "the next image starts with what fitted"
    assert not caplog.records
    (tiling,) = restorer.plan(90, 300)
    assert tiling.tile == 80


def test_out_of_memory_at_the_smallest_tile_is_an_error():
    with pytest.raises(UserError, match="out of memory at 32 x 32 pixels"):
        restore_tensor(Plain(runs_out_above(8)), torch.rand(1, 3, 90, 300))


def test_other_errors_are_not_swallowed():
    def fails(x):
        raise RuntimeError("another")

    with pytest.raises(RuntimeError, match="another"):
        restore_tensor(Plain(fails), torch.rand(1, 3, 8, 8))


@pytest.mark.parametrize("name", SMALL)
def test_memory_is_known_before_the_pass(name):
    torch.manual_seed(0)
    network = build_network({"type": name, **SMALL[name]}).eval()
    known = memory.bytes_per_pixel(network, network.facts)
    assert (known > 12) == (name not in ("Identity", "CaVEQuality"))  # these return the image
    if name not in ("CaVE", "SAFMN_BCIE"):
        return  # the others take longer to run; those two show that the count is the real one
    size = 128
    with torch.no_grad(), memory._LiveBytes(network.state_dict().values()) as count:
        network(torch.rand(1, network.facts.in_channels, size, size))
    image = 12 * size**2
    assert known * size**2 + image == pytest.approx(count.peak, rel=0.02)


@pytest.mark.parametrize(
    ("limit", "free"), [("max", 4096.0), ("10000", 4096.0), ("2000", 2000.0 - 1500 + 300)]
)
def test_free_memory_is_that_of_the_system_or_of_the_container(limit, free, tmp_path, monkeypatch):
    (tmp_path / "meminfo").write_text("MemFree: 1 kB\nMemAvailable:  4 kB\n")
    (tmp_path / "memory.max").write_text(f"{limit}\n")
    (tmp_path / "memory.current").write_text("1500\n")
    (tmp_path / "memory.stat").write_text("anon 1200\ninactive_file 300\n")
    monkeypatch.setattr(memory, "_MEMORY", tmp_path / "meminfo")
    names = ("memory.max", "memory.current")
    monkeypatch.setattr(memory, "_CONTROL_GROUPS", ((tmp_path, *names),))
    assert memory.budget(torch.device("cpu"), all_free=True) == memory._SHARE_OF_MAIN * free
    assert memory.budget(torch.device("cpu")) == memory.CPU_BUDGET


def test_free_memory_is_a_guess_where_the_system_does_not_say(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "_MEMORY", tmp_path / "nowhere")
    assert memory._free_memory() == 4 * memory.CPU_BUDGET


def test_memory_of_a_pass_does_not_include_the_weights():
    class Wide(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(1000, 1000)

        def forward(self, x):
            return x + self.linear(x.new_zeros(1, 1000)).mean()  # uses a view of the weight

    network = Wide()
    assert memory.bytes_per_pixel(network, Identity().facts) < 100


def test_on_a_cpu_tiles_are_no_larger_than_speed_asks_for(monkeypatch):
    monkeypatch.setattr(memory, "bytes_per_pixel", lambda network, facts: 1.0)
    network = Plain(lambda x: x)

    def plan(device, *size):
        planner = TilePlanner([network], [network.facts], InferenceOptions(tile="auto"), device)
        return planner.plan(*size)

    cpu, other = torch.device("cpu"), torch.device("meta")
    assert plan(cpu, 768, 768) == {None: 1}
    (tiling,) = plan(cpu, 1000, 3000)
    assert tiling is not None
    assert tiling.tile == 576
    assert plan(other, 1000, 3000) == {None: 1}


def test_images_reach_a_network_in_the_layout_it_states():
    seen = []

    def look(x):
        seen.append(x.is_contiguous(memory_format=torch.channels_last))
        return x

    network = Plain(look)
    image = torch.rand(1, 3, 40, 24)
    restored = restore_tensor(network, image)
    network.facts = replace(network.facts, channels_last=True)
    assert torch.equal(restore_tensor(network, image), restored)
    assert seen == [False, True]


def test_auto_takes_the_largest_tile_that_fits(monkeypatch):
    monkeypatch.setattr(memory, "bytes_per_pixel", lambda network, facts: 100.0)
    monkeypatch.setattr(memory, "CPU_BUDGET", 100 * 200 * 300)
    restorer = Restorer([Plain(lambda x: x, multiple=32)], InferenceOptions(tile="auto"))
    assert restorer.plan(200, 300) == {None: 1}
    (tiling,) = restorer.plan(224, 448)
    assert tiling.tile == 224
    assert tiling.tile**2 <= 200 * 300 < (tiling.tile + 32) ** 2
    assert "tiles of 224 px" in restorer.describe()["inference"]


def test_precisions():
    auto = Restorer([Plain(lambda x: x)], InferenceOptions(precision="auto"))
    assert auto.precision in ("fp32", "bf16")
    only = Restorer([Plain(lambda x: x, precisions=["fp32"])], InferenceOptions(precision="auto"))
    assert only.precision == "fp32"
    with pytest.raises(UserError, match="fp16 needs a GPU; use bf16 or fp32"):
        restore_tensor(Plain(lambda x: x), torch.rand(1, 3, 8, 8), precision="fp16")
    with pytest.raises(UserError, match="supports fp32, not bf16"):
        Restorer([Plain(lambda x: x, precisions=["fp32"])], InferenceOptions(precision="bf16"))


def test_a_network_without_facts_takes_whole_images():
    image = torch.rand(1, 1, 9, 9)
    assert torch.equal(restore_tensor(nn.Identity(), image), image)
    with pytest.raises(UserError, match="Identity does not state its facts"):
        restore_tensor(nn.Identity(), image, tile=64)


def test_a_network_of_basicsr_that_does_not_pad():
    torch.manual_seed(0)
    network = build_network(
        {"type": "SwinIR", "embed_dim": 12, "depths": [2], "num_heads": [2], "window_size": 7}
        | {"upsampler": "", "img_size": 28, "upscale": 1}
    ).eval()
    image = torch.rand(1, 3, 30, 41)
    assert restore_tensor(network, image).shape == image.shape
    (tiling,) = Restorer([network], InferenceOptions(tile=100)).plan(300, 300)
    assert tiling.tile == 224


def test_compiled_gives_the_same():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1))
    network.facts = Plain(None).facts
    image = torch.rand(1, 3, 20, 30)
    expected = restore_tensor(network, image)
    restorer = Restorer([network], InferenceOptions())
    restorer.compile(backend="eager")  # the compiler proper takes 10 s
    assert torch.allclose(restorer(image), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"tile": "all"}, "val.tile: expected auto or an integer from 0; it is 'all'"),
        ({"tile": -1}, "val.tile: expected auto or an integer from 0; it is -1"),
        ({"precision": "half"}, "val.precision: expected auto or bf16 or fp16 or fp32"),
    ],
)
def test_options_that_cannot_be_used(option, message):
    with pytest.raises(OptionsError, match=message):
        typed(option, InferenceOptions, "val")


def test_tiles_share_the_quality_that_fbcnn_predicts():
    """Each tile would predict its own: a smooth sky another than the leaves before it."""
    torch.manual_seed(0)
    network = filled(build_network({"type": "FBCNN", **SMALL["FBCNN"]}).eval())
    smooth, rough = torch.full((1, 3, 48, 48), 0.5), torch.rand(1, 3, 48, 48)
    image = torch.cat((smooth, rough, smooth), dim=-1)
    with torch.inference_mode():
        _, middle = network(image[..., :32, 48:80], return_quality=True)
        _, left = network(image[..., :32, :32], return_quality=True)
    assert abs(middle - left) > 1e-3
    restorer = Restorer([network], InferenceOptions(tile=32, overlap=16))
    given = restorer(image, quality=middle)
    torch.testing.assert_close(restorer(image), given)
    assert not torch.allclose(restorer(image, quality=left), given, atol=1e-5)
    pair = restorer(torch.cat((image, image.flip(1))))
    torch.testing.assert_close(pair[:1], given)


def test_the_finished_share_of_every_pass_is_watched():
    restorer = Restorer([Shift(), nn.Identity()], InferenceOptions(self_ensemble="transpose"))
    shares = []
    restorer.watch = shares.append
    restorer(torch.rand(2, 1, 4, 6))
    assert shares == [0, 0.25, 0.5, 0.75, 1]


def test_the_finished_share_of_the_tiles_is_watched():
    network = build_network({"type": "Identity"}).eval()
    restorer = Restorer([network], InferenceOptions(tile=32, overlap=16))
    shares = []
    restorer.watch = shares.append
    restorer(torch.rand(1, 3, 40, 64))
    count = len(shares) - 1
    assert count == 2 * 3
    assert shares == [n / count for n in range(count + 1)]


def test_watching_can_stop_the_restoration():
    passes = []

    class Counting(nn.Module):
        def forward(self, x):
            passes.append(1)
            return x

    def stop(share):
        if share >= 0.5:
            raise InterruptedError

    restorer = Restorer([Counting()], InferenceOptions(self_ensemble="x8"))
    restorer.watch = stop
    with pytest.raises(InterruptedError):
        restorer(torch.rand(1, 1, 8, 8))
    assert len(passes) == 4
    restorer.watch = None
    restorer(torch.rand(1, 1, 8, 8))  # it can be used again
    assert len(passes) == 12
