"""``basicsr restore``, ``models`` and ``convert`` with the tiny CODiff."""

import json
import re
import stat
from pathlib import Path

import numpy as np
import pytest
import torch
from command_tools import photographs
from diffusion_tools import tiny_codiff, tiny_pickle
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file

from cir_cli import main
from cir_model.restoring.consistency import can_hold

pytest.importorskip("diffusers")


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """Two JPEGs in a folder below the current one, 48 x 40 pixels, one of them grey."""
    monkeypatch.chdir(tmp_path)
    originals = photographs(tmp_path / "originals", ("astronaut", "coffee"))
    (tmp_path / "photos").mkdir()
    for path, mode in zip(sorted(originals.iterdir()), ("RGB", "L"), strict=True):
        picture = Image.open(path).convert(mode).crop((0, 0, 45, 38))
        picture.save(tmp_path / "photos" / f"{path.stem}.jpg", quality=10)
    return tmp_path / "photos"


def restore(files, *arguments, base=True):
    command = ["restore", "photos", "-m", files.pickle, "--device", "cpu", *arguments]
    if base:
        command += ["--base", files.base]
    return main.main([str(word) for word in command])


def samples(path):
    with Image.open(path) as picture:
        return np.asarray(picture)


def as_image(samples):
    return torch.from_numpy(samples / np.float32(255)).permute(2, 0, 1)[None]


def as_samples(image):
    return (image[0].permute(1, 2, 0) * 255).round().byte().numpy()


@torch.no_grad()
def test_a_folder_is_restored(photos, tiny_files, capsys):
    assert restore(tiny_files, "-o", "out") == 0
    said = capsys.readouterr().err
    assert "2 restored, 0 copied" in said
    assert "(whole images, fp32)" in said
    x = as_image(samples(photos / "astronaut.jpg"))
    assert np.array_equal(samples("out/astronaut.png"), as_samples(tiny_codiff()(x)))
    assert samples("out/coffee.png").shape == (38, 45)


@pytest.mark.parametrize(
    "flags, settings, inputs",
    [
        (["--align", "none"], {"align": "none"}, {}),
        (["--seed", "3"], {"seed": 3}, {}),
        (["--strength", "0.4"], {}, {"strength": 0.4}),
        (["--tile", "32", "--overlap", "16"], {}, {"tile": 32, "overlap": 16}),
    ],
)
@torch.no_grad()
def test_flags_reach_the_network(flags, settings, inputs, photos, tiny_files):
    (photos / "coffee.jpg").unlink()
    assert restore(tiny_files, "-o", "out", *flags) == 0
    x, found = as_image(samples(photos / "astronaut.jpg")), samples("out/astronaut.png")
    assert np.array_equal(found, as_samples(tiny_codiff(**settings)(x, **inputs)))
    assert not np.array_equal(found, as_samples(tiny_codiff()(x)))


@pytest.mark.skipif(not can_hold(), reason="needs jpeglib")
def test_results_are_held_to_the_file_only_on_request(photos, tiny_files):
    for folder, flags in (("free", []), ("held", ["--consistency"]), ("no", ["--no-consistency"])):
        assert restore(tiny_files, "-o", folder, *flags) == 0
    free, held, no = (samples(f"{folder}/astronaut.png") for folder in ("free", "held", "no"))
    assert np.array_equal(free, no)
    assert not np.array_equal(free, held)
    jpeg = samples(photos / "astronaut.jpg").astype(float)
    assert abs(held - jpeg).mean() < abs(free - jpeg).mean()


def test_a_converted_file_restores_without_the_others(photos, tiny_files, capsys, tmp_path):
    assert restore(tiny_files, "-o", "out") == 0
    convert = ["convert", str(tiny_files.pickle), "--base", str(tiny_files.base), "-o"]
    assert main.main([*convert, "whole.safetensors"]) == 0
    assert main.main([*convert, "half.safetensors", "--half"]) == 0
    said = capsys.readouterr().out
    assert "whole.safetensors: CODiff with its base and CaVE. The use restrictions of" in said
    again = ["convert", "whole.safetensors", "--half", "-o", "again.safetensors"]
    assert main.main(again) == 0
    names = ("whole", "half", "again")
    whole, half, again = (tmp_path / f"{name}.safetensors" for name in names)
    halved = load_file(half)
    assert all(torch.equal(value, halved[name]) for name, value in load_file(again).items())
    assert half.stat().st_size < 0.55 * whole.stat().st_size
    assert whole.stat().st_mode & stat.S_IRGRP
    for name in ("whole", "half"):
        command = ["restore", "photos", "-m", f"{name}.safetensors", "-o", name, "--device", "cpu"]
        assert main.main(command) == 0
        for picture in ("astronaut", "coffee"):
            ours = samples(f"{name}/{picture}.png").astype(int)
            wanted = samples(f"out/{picture}.png").astype(int)
            assert abs(ours - wanted).max() <= (0 if name == "whole" else 3)


def test_a_converted_file_carries_its_terms_and_no_paths(tiny_files, tmp_path, capsys):
    path = tmp_path / "whole.safetensors"
    command = ["convert", tiny_files.pickle, "--base", tiny_files.base, "-o", path]
    assert main.main([str(word) for word in command]) == 0
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    assert "CreativeML Open RAIL++-M" in metadata["licence"]
    assert "minors" in metadata["use_restrictions"]
    assert "was changed" in metadata["changes"]
    assert str(tiny_files.base) not in json.dumps(metadata)
    capsys.readouterr()
    assert main.main(["models", str(path)]) == 0
    shown = capsys.readouterr().out
    assert "CODiff, with its base and CaVE" in shown
    assert metadata["use_restrictions"] in shown


def test_models_describes_what_was_trained(tiny_files, capsys):
    assert main.main(["models", str(tiny_files.pickle)]) == 0
    shown = capsys.readouterr().out
    assert "network:  CODiff, what was trained" in shown
    assert "tensors:  584 of 371,542 numbers, float32" in shown
    assert "258 layers with rank 4 of the UNet, 32 layers with rank 2 of the VAE" in shown
    assert "needed, by --base FOLDER; its UNet takes tokens of 48 numbers" in shown
    assert main.main(["models", str(tiny_files.pickle), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["numbers"] == 371_542


def test_the_python_of_the_documentation_runs(photos, tiny_files, tmp_path):
    page = Path(__file__).parents[2] / "docs" / "diffusion.md"
    (code,) = re.findall(r"^```python\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)
    for link, target in {
        "codiff.pkl": tiny_files.pickle,
        "cave.pth": tiny_files.cave,
        "stable-diffusion-2-1-base": tiny_files.base,
        "photo.jpg": photos / "astronaut.jpg",
    }.items():
        (tmp_path / link).symlink_to(target)
    exec(code, {})
    assert samples("restored.png").shape == (38, 45, 3)


def line_of(capsys, *command):
    """Run a command that fails, and return its only line."""
    capsys.readouterr()
    assert main.main([str(word) for word in command]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_restore_says_what_is_missing(photos, tiny_files, tmp_path, capsys):
    command = ["restore", "photos", "-o", "out", "-m"]
    line = line_of(capsys, *command, tiny_files.pickle)
    assert line == (
        f"basicsr restore: error: {tiny_files.pickle}: holds only what CODiff changes in its base;"
        " give --base FOLDER: stable-diffusion-2-1-base in diffusers' layout, with the folders"
        " unet, vae and scheduler"
    )
    (tmp_path / "alone.pkl").write_bytes(tiny_files.pickle.read_bytes())
    line = line_of(capsys, *command, "alone.pkl", "--base", tiny_files.base)
    assert "cave.pth: no such file; CODiff needs the checkpoint of CaVE" in line
    given = [*command, "alone.pkl", "--base", tiny_files.base, "--cave", tiny_files.cave]
    assert main.main([str(word) for word in given]) == 0


@pytest.mark.parametrize(
    "flags, line",
    [
        (["--base", "x"], "--base: only codiff.pkl takes it, and no -m is one; leave out the flag"),
        (["--cave", "x"], "--cave: only codiff.pkl takes it, and no -m is one; leave out the flag"),
        (["--seed", "1"], "--seed: only CODiff takes it, and no -m is one; leave out the flag"),
        (
            ["--align", "none"],
            "--align: only CODiff takes it, and no -m is one; leave out the flag",
        ),
    ],
)
def test_flags_of_codiff_are_refused_for_other_networks(flags, line, photos, capsys):
    command = ["restore", "photos", "-o", "out", *flags]
    assert line_of(capsys, *command) == f"basicsr restore: error: {line}"


def test_fp16_needs_a_gpu(photos, tiny_files, capsys):
    command = ["restore", "photos", "-o", "out", "-m", tiny_files.pickle, "--base", tiny_files.base]
    line = line_of(capsys, *command, "--precision", "fp16", "--device", "cpu")
    assert "fp16 needs a GPU" in line


def test_osediff_is_declined_by_every_command(tmp_path, tiny_files, photos, capsys):
    content = tiny_pickle()
    del content["proj"]
    torch.save(content, tmp_path / "osediff.pkl")
    for command in (
        ["restore", "photos", "-o", "out", "-m", "osediff.pkl", "--base", tiny_files.base],
        ["models", "osediff.pkl"],
        ["convert", "osediff.pkl", "--base", tiny_files.base, "-o", "new.safetensors"],
    ):
        assert "osediff.pkl: is OSEDiff, which needs a text prompt" in line_of(capsys, *command)
    assert not (tmp_path / "new.safetensors").exists()


@pytest.mark.parametrize(
    "arguments, text",
    [
        (["-o", "new.pth"], "-o new.pth: CODiff is written as .safetensors only"),
        (["-o", "n.safetensors"], "holds only what CODiff changes in its base; give --base FOLDER"),
        (["-o", "n.safetensors", "--key", "proj"], "--key: CODiff does not take it"),
        (["-o", "n.safetensors", "--size", "8x8"], "--size: CODiff does not take it"),
        (["-o", "n.safetensors", "--network", "{type: HAT}"], "--network: CODiff does not"),
        (["photo.pth", "-o", "n.safetensors"], "CODiff is converted alone; give codiff.pkl"),
    ],
)
def test_convert_says_what_is_wrong(arguments, text, tiny_files, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert text in line_of(capsys, "convert", tiny_files.pickle, *arguments)


def test_the_flags_of_codiff_are_refused_for_other_files(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    command = ["convert", "fbcnn_xs_x1", "-o", "n.safetensors", "--base", "x"]
    assert "--base: only codiff.pkl takes it; leave out the flag" in line_of(capsys, *command)


def test_models_refuses_a_key(tiny_files, capsys):
    line = line_of(capsys, "models", tiny_files.pickle, "--key", "proj")
    assert "--key: CODiff's files hold no other state dicts" in line


def test_a_converted_file_needs_no_base(photos, tiny_files, tmp_path, capsys):
    convert = ["convert", tiny_files.pickle, "--base", tiny_files.base, "-o", "whole.safetensors"]
    assert main.main([str(word) for word in convert]) == 0
    command = ["restore", "photos", "-o", "out", "-m", "whole.safetensors"]
    line = line_of(capsys, *command, "--base", tiny_files.base)
    assert "--base: only codiff.pkl takes it" in line
    line = line_of(capsys, *convert[:1], "whole.safetensors", *convert[2:4], "-o", "n.safetensors")
    assert "whole.safetensors: holds its base and CaVE; leave out --base and --cave" in line
