"""Commands import little before they need it; train and test take the flags of BasicSR."""

import argparse
import sys
from pathlib import Path

import pytest
from host_tools import run_python
from PIL import Image

from cir_cli import parsers
from cir_cli.flag_types import tiles, weighted
from cir_host import patches

HELP = """
import sys
from cir_cli.main import COMMANDS, main
for name in COMMANDS:
    try:
        main([name, "--help"])
    except SystemExit as end:
        assert end.code == 0, name
    assert "torch" not in sys.modules, name
"""

RESTORE = """
import sys
import cir_cli.restore
from cir_cli.main import main
heavy = ("basicsr", "torchvision", "scipy", "cv2")
loaded = [name for name in heavy if name in sys.modules]
assert not loaded, f"import cir_cli.restore imports {loaded}"
assert main(["restore", "small.jpg", "-o", "restored.png"]) == 0
loaded = [name for name in heavy if name in sys.modules]
assert not loaded, f"basicsr restore imports {loaded}"
"""


def test_no_help_imports_torch(tmp_path):
    done = run_python(["-c", HELP], tmp_path)
    assert done.stdout.count("usage: basicsr ") == 12


def test_restoring_imports_neither_basicsr_nor_what_only_training_needs(tmp_path):
    Image.radial_gradient("L").resize((16, 16)).convert("RGB").save(tmp_path / "small.jpg")
    run_python(["-c", RESTORE], tmp_path)
    with Image.open(tmp_path / "restored.png") as restored:
        assert restored.size == (16, 16)


class Parsed(Exception):
    """Carries the parser that BasicSR has built."""


def parser_of_basicsr(monkeypatch):
    def parse_args(self):
        raise Parsed(self)

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_args)
    with pytest.raises(Parsed) as caught:
        patches.original("basicsr.utils.options:parse_options")(".")
    return caught.value.args[0]


def flags(parser):
    facts = ("option_strings", "dest", "nargs", "default", "choices", "required", "const")
    return [
        {fact: getattr(action, fact) for fact in facts}
        # str converts nothing, as no type does
        | {"type": None if action.type is str else action.type, "kind": type(action).__name__}
        | {"choices": action.choices and sorted(action.choices)}
        for action in parser._actions
    ]


@pytest.mark.parametrize("make", [parsers.train, parsers.test])
def test_flags_of_train_and_test_are_basicsrs_own(make, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["basicsr"])
    assert flags(make()) == flags(parser_of_basicsr(monkeypatch))


@pytest.mark.parametrize(
    ("text", "value"),
    [("auto", "auto"), ("0", 0), ("288", 288), ("288,320,352", (288, 320, 352))],
)
def test_tile_sizes(text, value):
    assert tiles(text) == value


@pytest.mark.parametrize("text", ["", "big", "-1", "288,", "288,auto", "0,288", "288, 320x"])
def test_what_is_no_tile_size_is_refused(text):
    with pytest.raises(argparse.ArgumentTypeError, match="is not an integer from"):
        tiles(text)


@pytest.mark.parametrize(
    ("text", "path", "weight"),
    [
        ("a.pth", "a.pth", None),
        ("a.pth=0.8", "a.pth", 0.8),
        ("fbcnn_s_x1=0", "fbcnn_s_x1", 0),
        ("runs/lr=2e-4/a.pth=3", "runs/lr=2e-4/a.pth", 3),
        ("there=0.5", "there=0.5", None),
        ("there=0.5=2", "there=0.5", 2),
        ("there=0.5/a.pth", "there=0.5/a.pth", None),
    ],
)
def test_weights_of_networks(text, path, weight, tmp_path, monkeypatch):
    """A path that exists is one, whatever its name."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there=0.5").mkdir()
    (tmp_path / "there=0.5/a.pth").write_bytes(b"")
    assert weighted(text) == (Path(path), weight)


@pytest.mark.parametrize("given", ["", "x", "-0.5", "nan", "inf", "1,5"])
def test_what_is_no_weight_is_refused(given, capsys):
    with pytest.raises(SystemExit) as end:
        parsers.restore().parse_args(["a.jpg", "-o", "out", "-m", f"a.pth={given}"])
    assert end.value.code == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line == (
        f"basicsr restore: error: argument -m/--model: 'a.pth={given}' is neither a file nor"
        " FILE=WEIGHT with a weight from 0, such as A.pth=0.8"
    )


def test_a_weight_without_a_file_is_refused():
    with pytest.raises(argparse.ArgumentTypeError, match=r"'=0\.5' is neither a file nor"):
        weighted("=0.5")
