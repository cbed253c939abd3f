"""What holds for every network of ours, small: sizes, precisions, gradients, facts."""

import copy
import inspect
import re
import shutil
import subprocess
import sys

import pytest
import torch
from basicsr.archs import build_network
from basicsr.utils.registry import ARCH_REGISTRY
from network_tools import error, gradient_sizes, gradients, input_for, padded, reach, restore
from small_networks import APART_FROM_THE_IMAGE, OURS, RETURN_THE_IMAGE, SMALL
from vector_tools import image

from cir_arch.facts import NetworkFacts
from cir_arch.layers.padding import PaddingRule
from cir_host.errors import UserError

TRAINED = sorted(set(SMALL) - RETURN_THE_IMAGE)


def build(name, **arguments):
    torch.manual_seed(0)
    return build_network({"type": name, **SMALL[name], **arguments}).eval()


def picture(network, height, width, **further):
    return input_for(network.facts, height, width, **further)


def test_entries_are_what_basicsr_s_registry_holds():
    registered = {
        name: cls
        for name, cls in ARCH_REGISTRY
        if cls.__module__.startswith("cir_arch.") or cls.__module__ == "example_network"
    }
    assert registered == {name: entry.load() for name, entry in OURS.items()}


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("size", [(1, 1), (1, 40), (2, 3), (17, 31), (33, 64), (50, 7)])
def test_any_size_comes_back_in_its_size(name, size):
    network = build(name)
    x = picture(network, *size)
    out = restore(network, x)
    height, width = (side * network.facts.scale for side in x.shape[2:])
    assert out.shape == (1, network.facts.in_channels, height, width)
    assert out.isfinite().all()


PRECISE = {"fp32": 1e-6, "bf16": 0.05, "fp16": 0.01}


@pytest.mark.parametrize("name", SMALL)
def test_images_of_a_batch_do_not_see_each_other(name):
    network = build(name)
    batch = picture(network, 32, 48, batch=2)
    together = restore(network, batch)
    alone = torch.cat([restore(network, one[None]) for one in batch])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", SMALL)
def test_declared_precisions_are_sound(name):
    network = build(name)
    x = picture(network, 33, 40)
    expected = restore(network, x)
    for precision in network.facts.precisions:
        out = restore(network, x, precision)
        assert out.isfinite().all()
        assert error(out, expected) < PRECISE[precision]
    if network.facts.has_weights:
        half = copy.deepcopy(network).bfloat16()
        out = restore(half, x.bfloat16())
        assert out.dtype == torch.bfloat16
        assert error(out, expected) < 0.1


@pytest.mark.parametrize("name", TRAINED)
def test_every_parameter_learns(name):
    network = build(name)
    x = picture(network, 32, 32, batch=2)
    sizes = gradient_sizes(network.double(), x.double())
    apart = {key for key in sizes if re.fullmatch(APART_FROM_THE_IMAGE.get(name, "(?!)"), key)}
    assert {key for key, size in sizes.items() if size < 1e-12 * max(sizes.values())} == apart
    network.float().train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4)
    target = image(*network(x).shape[-2:], seed=5, batch=2)
    losses = []
    for _ in range(4):
        loss = (network(x) - target).abs().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("name", SMALL)
def test_facts_are_true(name, monkeypatch):
    network = build(name)
    facts = network.facts
    assert isinstance(facts, NetworkFacts)
    assert facts.has_weights == bool(list(network.parameters()))
    assert facts.pads_itself
    # the tests of any size prove it; of coefficients, there are no fewer than those of an MCU
    assert facts.min_size == (1 if facts.input_kind == "pixels" else 16)
    with pytest.raises(UserError, match=f" {facts.in_channels} channels, this one has "):
        restore(network, torch.rand(1, facts.in_channels + 1, 16, 16))
    _, *others = inspect.signature(network.forward).parameters
    stated = {*facts.extra_inputs, *(f"return_{name}" for name in facts.extra_outputs)}
    assert set(others) == stated
    for output in facts.extra_outputs:
        flag = {f"return_{output}": True}
        assert len(network(picture(network, 16, 16), **flag)) == 2
    if facts.input_kind == "coefficients":
        return  # its blocks are mirrored, see the network's own tests

    pads = []
    real, by_rule = torch.nn.functional.pad, PaddingRule.pad
    monkeypatch.setattr(
        torch.nn.functional,
        "pad",
        lambda x, pad, mode="constant", value=None: (
            # convolutions of features may reflect them, whatever their size
            pads.extend([mode] * (x.shape[1] == facts.in_channels)) or real(x, pad, mode, value)
        ),
    )

    def pad(rule, x):
        out = by_rule(rule, x)
        pads.extend(["by rule"] * (out.shape != x.shape))
        return out

    monkeypatch.setattr(PaddingRule, "pad", pad)
    multiple = facts.size_multiple
    restore(network, picture(network, 2 * multiple, multiple))
    # zeros are the padding of windows and convolutions, too
    assert not [mode for mode in pads if mode != "constant"], "a multiple was padded"
    for smaller in range(1, multiple):
        pads.clear()
        restore(network, picture(network, smaller, multiple))
        assert [mode for mode in pads if mode != "constant"], f"{smaller} is a multiple, too"


SQUEEZES = {"Swin2SR": {"upsampler": "pixelshuffle"}}
"""The published ``pixelshuffle_aux`` squeezes the padded image; its own tests compare values."""


@pytest.mark.parametrize("name", SMALL)
def test_padding_is_the_declared_one(name):
    """An image is restored as the one that the rule makes of it, and cut again."""
    network = build(name, **SQUEEZES.get(name, {}))
    facts, rule = network.facts, network.facts.padding
    if rule is None:
        # blocks of coefficients are mirrored by a rule of their own
        assert facts.size_multiple == 1 or facts.input_kind == "coefficients"
        return
    assert rule.side == "bottom right"
    assert facts.size_multiple == max(rule.multiple, rule.smallest)
    edge = {"reflect": "reflect", "replicate": "edge"}[rule.mode]
    short = {"replicate": "edge", "zeros": "constant"}[rule.short]
    multiple, scale = facts.size_multiple, facts.scale
    for height, width, mode in (
        (2 * multiple - 1, multiple + 1, edge),
        (multiple - 1, 2 * multiple - 1, edge),
        (1, multiple, short),  # too short to be reflected
    ):
        x = picture(network, height, width, seed=height)
        enlarged = padded(x, rule.missing(height), rule.missing(width), mode)
        expected = restore(network, enlarged)[..., : height * scale, : width * scale]
        torch.testing.assert_close(restore(network, x), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", TRAINED)
def test_recomputing_blocks_changes_no_gradient(name):
    network, recomputing = build(name), build(name, use_checkpoint=True)
    x = picture(network, 32, 48, batch=2)
    expected = gradients(network, x)
    for key, gradient in gradients(recomputing, x).items():
        if gradient is None:
            assert expected[key] is None, key
        else:
            torch.testing.assert_close(gradient, expected[key], msg=key)


@pytest.mark.parametrize("name", TRAINED)
def test_compiles_as_one_graph(name):
    """The backward pass of our own functions is traced in the tests of the layers."""
    network = build(name)
    x = picture(network, 7, 12)
    compiled = torch.compile(network, backend="eager", fullgraph=True)
    torch.testing.assert_close(restore(compiled, x), restore(network, x), rtol=0, atol=1e-4)


def test_compiles_to_machine_code():
    """One network stands for all: the rest is PyTorch's."""
    if shutil.which("g++") is None:
        pytest.skip("the compiler needs a C++ compiler")
    network = build("HAT", depths=(1,), num_heads=(2,))
    x = picture(network, 8, 8)
    compiled = torch.compile(network, fullgraph=True)
    torch.testing.assert_close(restore(compiled, x), restore(network, x), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", SMALL)
def test_channels_last_reaches_the_output_and_keeps_the_values(name):
    network = build(name)
    if not network.facts.channels_last:
        pytest.skip("not stated")
    x = picture(network, 32, 40)
    out = restore(network, x.contiguous(memory_format=torch.channels_last))
    torch.testing.assert_close(out, restore(network, x), rtol=0, atol=1e-5)
    assert out.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("name", SMALL)
def test_halo_is_the_receptive_field_radius(name):
    """Exactly: over all positions and both axes, some pixel at its edge counts, none beyond it."""
    network = build(name).double()
    if network.facts.halo is not None:
        assert reach(network, network.facts) == network.facts.halo
        return
    # However far away: without its last columns the first pixel of the image is another.
    multiple = network.facts.size_multiple
    near = -(-96 // multiple) * multiple
    height = max(2 * multiple, 10)  # ART attends only to neighbours on a map of 8 rows
    x = picture(network, height, near + 34).double()
    if network.facts.input_kind == "coefficients":
        # Every pixel depends on the tables, which are read at the corner.
        whole, cut = restore(network, x), restore(network, x[..., multiple:])
        assert (whole[..., 0, -1] != cut[..., 0, -1]).any()
        return
    whole, cut = restore(network, x), restore(network, x[..., :near])
    assert (whole[..., 0, 0] != cut[..., 0, 0]).any()


@pytest.mark.parametrize("name", SMALL)
def test_saved_and_loaded_is_the_same(name, tmp_path):
    first = build(name)
    torch.save(first.state_dict(), tmp_path / "net.pth")
    second = build_network({"type": name, **SMALL[name]}).eval()
    second.load_state_dict(torch.load(tmp_path / "net.pth", weights_only=True))
    x = picture(first, 24, 24)
    assert torch.equal(restore(first, x), restore(second, x))


@pytest.mark.parametrize("name", SMALL)
def test_train_and_eval_agree_without_drop_path(name):
    network = build(name)
    if any(isinstance(module, torch.nn.BatchNorm2d) for module in network.modules()):
        pytest.skip(f"{name} normalises by the batch in training")
    x = picture(network, 32, 32)
    expected = restore(network, x)
    torch.testing.assert_close(restore(network.train(), x), expected, rtol=0, atol=1e-6)


def test_importing_again_registers_nothing_new():
    """In a process of its own: reloaded classes would be strangers to the other tests."""
    program = """
import importlib, sys
import cir_arch
from basicsr.utils.registry import ARCH_REGISTRY
before = set(ARCH_REGISTRY.keys())
for name in [n for n in sys.modules if n.startswith("cir_arch.") and n.endswith("_arch")]:
    importlib.reload(sys.modules[name])
importlib.reload(cir_arch)
assert set(ARCH_REGISTRY.keys()) == before, set(ARCH_REGISTRY.keys()) - before
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


WITHOUT = """
import sys
import torch
import cir_arch
network = cir_arch.load_network("promptcir_s_x1")
with torch.inference_mode():
    assert network(torch.rand(1, 3, 17, 20)).shape == (1, 3, 17, 20)
assert cir_arch.recognise(network.state_dict()).type == "PromptCIR"
from cir_arch import export
from cir_cli import convert, models
models.run([])
models.run(["promptcir_s_x1"])
convert.run(["promptcir_s_x1", "-o", sys.argv[1]])
found = {"basicsr", "torchvision", "scipy", "cv2"} & sys.modules.keys()
assert not found, found
"""


def test_our_networks_need_neither_basicsr_nor_what_it_imports(tmp_path):
    program = [sys.executable, "-c", WITHOUT, str(tmp_path / "net.safetensors")]
    done = subprocess.run(program, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("order", ["import basicsr, cir_arch", "import cir_arch, basicsr"])
def test_basicsr_s_registry_holds_ours_in_either_order_of_imports(order):
    program = f"""
import cir_host
{order}
from basicsr.archs import build_network
from basicsr.utils.registry import ARCH_REGISTRY
from cir_arch.network import entries
for entry in entries():
    assert ARCH_REGISTRY.get(entry.name) is entry.load(), entry.name
assert type(build_network({{"type": "Identity"}})) is cir_arch.Identity
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
