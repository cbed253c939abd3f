"""``basicsr convert``: safetensors that name their network, BasicSR's .pth, and ONNX."""

import json
import os
import sys

import pytest
import torch
from basicsr.archs import build_network
from network_tools import restore
from small_networks import SMALL
from vector_tools import image

from cir_arch import export, load_network
from cir_arch.recognition import described
from cir_cli.main import main
from cir_host.checkpoint import read_checkpoint

TINY = {
    "CaVE": {"nc": (4, 4, 4, 4), "quality_nc": 4, "nb": 1},
    "UCIP": {**SMALL["UCIP"], "depths": (1,)},
    "PromptCIR": {**SMALL["PromptCIR"], "num_blocks": (1, 1, 1, 1)},
}
"""The exporter's time grows with the number of layers."""


def saved(folder, name="HAT", **arguments):
    torch.manual_seed(0)
    network = build_network({"type": name, **SMALL[name], **TINY.get(name, {}), **arguments})
    torch.save({"params_ema": network.state_dict()}, folder / "net.pth")
    return network.eval()


def convert(folder, *arguments):
    return main(["convert", str(folder / "net.pth"), *arguments])


def test_safetensors_name_their_network(tmp_path, capsys):
    network = saved(tmp_path, conv_scale=0.5)
    section = "{type: HAT, conv_scale: 0.5}"  # shapes tell the others
    output = tmp_path / "net.safetensors"
    assert convert(tmp_path, "-o", str(output), "--network", section) == 0
    assert "conv_scale: 0.5}" in capsys.readouterr().out
    x = image(9, 12)
    torch.testing.assert_close(restore(load_network(output), x), restore(network, x))


def test_safetensors_of_what_the_shapes_tell(tmp_path):
    network = saved(tmp_path)
    output = tmp_path / "net.safetensors"
    assert convert(tmp_path, "-o", str(output)) == 0
    file = read_checkpoint(output)
    assert described(file.metadata).type == "HAT"
    assert file.state.keys() == network.state_dict().keys()
    x = image(9, 12)
    torch.testing.assert_close(
        restore(load_network(output), x), restore(network, x), rtol=0, atol=0
    )


def test_others_may_read_what_the_umask_lets_them(tmp_path):
    saved(tmp_path)
    old = os.umask(0o022)
    try:
        assert convert(tmp_path, "-o", str(tmp_path / "net.safetensors")) == 0
    finally:
        os.umask(old)
    assert (tmp_path / "net.safetensors").stat().st_mode & 0o777 == 0o644


def test_a_file_for_basicsr(tmp_path):
    network = saved(tmp_path)
    assert convert(tmp_path, "-o", str(tmp_path / "new.pth")) == 0
    assert torch.load(tmp_path / "new.pth").keys() == {"params"}
    assert read_checkpoint(tmp_path / "new.pth").state.keys() == network.state_dict().keys()


@pytest.mark.parametrize("ending", [".safetensors", ".SAFETENSORS", ".pth", ".PTH"])
def test_an_output_may_have_every_name_that_a_file_can_have(tmp_path, capsys, ending):
    network = saved(tmp_path, "CaVE")
    for start in ("n" * (255 - len(ending)), os.fsdecode(b"caf\xe9"), "line\nbreak"):
        output = tmp_path / f"{start}{ending}"
        assert convert(tmp_path, "-o", str(output)) == 0, capsys.readouterr().err
        file = read_checkpoint(output)
        assert (file.container == "safetensors") == (ending.lower() == ".safetensors")
        assert file.state.keys() == network.state_dict().keys()
        shown = capsys.readouterr().out
        assert shown.count("\n") == 1
        assert shown.encode()
    assert len(list(tmp_path.iterdir())) == 4


def test_a_name_that_no_file_can_have_is_one_line(tmp_path, capsys):
    saved(tmp_path, "CaVE")
    for output in (tmp_path / f"{'n' * 256}.pth", tmp_path / ("n" * 256) / "net.pth"):
        assert convert(tmp_path, "-o", str(output)) == 2
        error = capsys.readouterr().err
        assert "File name too long" in error
        assert error.count("\n") == 1


@pytest.mark.parametrize("ending", [".safetensors", ".pth", ".onnx"])
def test_weights_that_are_not_finite_are_not_converted(tmp_path, capsys, monkeypatch, ending):
    monkeypatch.setattr(export, "needs_extra", lambda *_: None)
    state = saved(tmp_path, "CaVE").state_dict()
    state["m_head.weight"][0] = float("nan")
    torch.save({"params": state}, tmp_path / "net.pth")
    assert convert(tmp_path, "-o", str(tmp_path / f"new{ending}")) == 2
    error = capsys.readouterr().err
    assert "net.pth: 1 of 103 tensors hold NaN or infinity (first m_head.weight)" in error
    assert error.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["net.pth"]


@pytest.mark.parametrize(
    ("state", "reason"),
    [
        ({"w": torch.ones(2, dtype=torch.complex64).to(torch.complex32)}, "torch.complex32"),
        ({"w\udce9": torch.ones(2)}, "surrogates not allowed"),
    ],
    ids=["type", "name"],
)
def test_what_the_format_cannot_hold_is_one_line(tmp_path, capsys, state, reason):
    torch.save(state, tmp_path / "net.pth")
    assert convert(tmp_path, "-o", str(tmp_path / "new.safetensors")) == 2
    error = capsys.readouterr().err
    assert "new.safetensors: " in error
    assert error.endswith(f"{reason}\n")
    assert [path.name for path in tmp_path.iterdir()] == ["net.pth"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-o", "net.txt"], "give .safetensors, .pth or .onnx"),
        (["-o", "absent/net.pth"], "the folder absent does not exist"),
        (["-o", "net.pth"], "net.pth: exists; give --overwrite to replace it"),
        (["-o", "new.pth", "--network", "HAT"], "give a section such as '{type: HAT, upscale: 2}'"),
        (["-o", "new.pth", "--key", "ours"], "holds no state dict 'ours'"),
    ],
)
def test_a_mistake_is_one_line_and_costs_nothing(tmp_path, capsys, monkeypatch, arguments, message):
    saved(tmp_path)
    before = (tmp_path / "net.pth").read_bytes()
    monkeypatch.chdir(tmp_path)
    assert convert(tmp_path, *arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["net.pth"]
    assert (tmp_path / "net.pth").read_bytes() == before


def test_a_file_replaces_itself_only_when_asked(tmp_path):
    network = saved(tmp_path)
    assert convert(tmp_path, "-o", str(tmp_path / "net.pth"), "--overwrite") == 0
    assert read_checkpoint(tmp_path / "net.pth").key == "params"
    assert read_checkpoint(tmp_path / "net.pth").state.keys() == network.state_dict().keys()


def test_without_the_packages_onnx_says_what_to_install(tmp_path, capsys, monkeypatch):
    saved(tmp_path)
    monkeypatch.setitem(sys.modules, "onnx", None)
    assert convert(tmp_path, "-o", str(tmp_path / "net.onnx")) == 2
    assert "pip install 'basicsr-cir[onnx]'" in capsys.readouterr().err


def test_an_export_that_fails_leaves_the_old_file(tmp_path, capsys, monkeypatch):
    pytest.importorskip("onnxruntime", reason="needs the extra [onnx]")
    saved(tmp_path, "CaVE")
    (tmp_path / "net.onnx").write_text("old")

    def fail(*args, **kwargs):
        raise RuntimeError("no form for aten.new\nand a report of pages")

    monkeypatch.setattr(torch.onnx, "export", fail)
    arguments = ["-o", str(tmp_path / "net.onnx"), "--overwrite"]
    assert convert(tmp_path, *arguments) == 2
    error = capsys.readouterr().err
    assert error.endswith("error: CaVE as ONNX: no form for aten.new\n")
    assert error.count("\n") == 1
    assert {path.name for path in tmp_path.iterdir()} == {"net.pth", "net.onnx"}
    assert (tmp_path / "net.onnx").read_text() == "old"


@pytest.fixture
def session(tmp_path):
    """What opens the file that a test has written."""
    runtime = pytest.importorskip("onnxruntime", reason="needs the extra [onnx]")
    pytest.importorskip("onnxscript", reason="needs the extra [onnx]")
    return lambda: runtime.InferenceSession(
        tmp_path / "net.onnx", providers=["CPUExecutionProvider"]
    )


def assert_same_image(network, session, size):
    x = image(*size, seed=3)
    (found,) = session.run(None, {"image": x.numpy()})
    torch.testing.assert_close(torch.from_numpy(found), restore(network, x), rtol=0, atol=1e-3)


@pytest.mark.parametrize("name", ["CaVE", "UCIP"])
def test_onnx_gives_the_same_images_at_other_sizes(tmp_path, capsys, name, session):
    """The command compares; here its output is compared once more, at sizes it does not try."""
    network = saved(tmp_path, name)
    assert convert(tmp_path, "-o", str(tmp_path / "net.onnx")) == 0, capsys.readouterr().err
    assert "any height and width" in capsys.readouterr().out
    for size in ((96, 33), (32, 64)):
        assert_same_image(network, session(), size)


def test_an_onnx_file_may_have_a_long_name(tmp_path, capsys):
    runtime = pytest.importorskip("onnxruntime", reason="needs the extra [onnx]")
    pytest.importorskip("onnxscript", reason="needs the extra [onnx]")
    saved(tmp_path, "CaVE")
    output = tmp_path / f"{'n' * 250}.ONNX"
    assert convert(tmp_path, "-o", str(output), "--size", "32x32") == 0, capsys.readouterr().err
    assert runtime.InferenceSession(output, providers=["CPUExecutionProvider"]).get_inputs()
    assert len(list(tmp_path.iterdir())) == 2


def test_onnx_of_promptcir_is_for_one_size(tmp_path, capsys, session):
    network = saved(tmp_path, "PromptCIR")
    output = ["-o", str(tmp_path / "net.onnx")]
    assert convert(tmp_path, *output) == 2
    assert (
        "PromptCIR as ONNX: it can be exported for one image size only" in capsys.readouterr().err
    )
    for height, width in ((30, 40), (16, 17)):
        assert convert(tmp_path, *output, "--overwrite", "--size", f"{height}x{width}") == 0
        assert "this height and width only" in capsys.readouterr().out
        assert session().get_inputs()[0].shape == [1, 3, height, width]
        assert_same_image(network, session(), (height, width))


def test_half_precision_and_the_network_of_an_options_file(tmp_path, capsys):
    """Read as float32; what the shapes do not tell is from the options file."""
    network = saved(tmp_path, "PromptCIR", conv_scale=0.5)
    section = {"type": "PromptCIR", **SMALL["PromptCIR"], **TINY["PromptCIR"], "conv_scale": 0.5}
    options = tmp_path / "train.yml"
    options.write_text(json.dumps({"name": "run", "network_g": section}))
    output, whole = tmp_path / "half.safetensors", tmp_path / "whole.safetensors"
    flags = ["--network", str(options)]
    assert convert(tmp_path, "-o", str(output), "--half", *flags) == 0
    assert convert(tmp_path, "-o", str(whole), *flags) == 0
    assert output.stat().st_size < 0.6 * whole.stat().st_size
    loaded = load_network(output)
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}
    x = image(64, 64)
    torch.testing.assert_close(restore(loaded, x), restore(network, x), rtol=0, atol=2e-3)
    assert convert(tmp_path, "-o", str(tmp_path / "net.onnx"), "--half") == 2
    assert "--half: ONNX files are written in float32" in capsys.readouterr().err


def test_half_precision_refuses_what_it_cannot_hold(tmp_path, capsys):
    network = saved(tmp_path, "UCIP")
    state = network.state_dict()
    name = next(n for n, value in state.items() if value.is_floating_point())
    state[name][..., 0] = 1e6
    torch.save(state, tmp_path / "net.pth")
    assert convert(tmp_path, "-o", str(tmp_path / "half.pth"), "--half") == 2
    assert f"--half: {name} has values beyond 65504" in capsys.readouterr().err
    assert not (tmp_path / "half.pth").exists()


def test_an_options_file_without_a_network(tmp_path, capsys):
    saved(tmp_path)
    options = tmp_path / "train.yml"
    options.write_text("name: run\n")
    flags = ["-o", str(tmp_path / "a.pth"), "--network", str(options)]
    assert convert(tmp_path, *flags) == 2
    assert "or an options file with network_g" in capsys.readouterr().err
