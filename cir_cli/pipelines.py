"""``basicsr train`` and ``basicsr test``: BasicSR's pipelines, run in the current directory."""

import argparse
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import cir_arch  # noqa: F401
import cir_data  # noqa: F401
import cir_model  # noqa: F401 (these fill the registries of BasicSR, which the next lines import)

# isort: split
from basicsr.test import test_pipeline
from basicsr.train import train_pipeline

from cir_cli import options_files


def train(arguments: list[str]) -> None:
    """Run ``basicsr train``; the arguments are those of BasicSR's ``train.py``."""
    _run("train", train_pipeline, arguments)


def test(arguments: list[str]) -> None:
    """Run ``basicsr test``; the arguments are those of BasicSR's ``test.py``."""
    _run("test", test_pipeline, arguments)


def _run(command: str, pipeline: Callable[[str], Any], arguments: list[str]) -> None:
    finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    finder.add_argument("-opt")
    found, rest = finder.parse_known_args(arguments)
    opt = [] if found.opt is None else ["-opt", str(options_files.find(found.opt))]
    saved = sys.argv
    sys.argv = [f"basicsr {command}", *opt, *rest]  # BasicSR parses sys.argv itself
    try:
        # BasicSR prints a few lines; a closed standard output must not end the training
        with redirect_stdout(sys.stderr):
            pipeline(str(Path.cwd()))
    finally:
        sys.argv = saved
