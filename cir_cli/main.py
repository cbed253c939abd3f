"""The entry point of the command: runs a subcommand and prints a ``UserError`` as one line."""

import argparse
import io
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import NamedTuple

from cir_cli import parsers
from cir_cli.standard_streams import run_watched
from cir_host import __version__
from cir_host.compat import warnings_stay_warnings
from cir_host.errors import UserError
from cir_host.file_names import printable
from cir_host.launchers import normalise_argv


class Command(NamedTuple):
    """A subcommand; its module is imported when it is run."""

    module: str
    function: str
    parser: Callable[[], argparse.ArgumentParser]
    summary: str

    def run(self, arguments: list[str]) -> int | None:
        """Run the subcommand; ``--help`` is answered without importing its module."""
        if {"-h", "--help"} & set(arguments):
            self.parser().parse_args(arguments)
        status: int | None = getattr(import_module(self.module), self.function)(arguments)
        return status


COMMANDS = {
    "train": Command(
        "cir_cli.pipelines", "train", parsers.train, "train a network: basicsr train -opt FILE.yml"
    ),
    "test": Command(
        "cir_cli.pipelines",
        "test",
        parsers.test,
        "measure a network on test sets: basicsr test -opt FILE.yml",
    ),
    "restore": Command(
        "cir_cli.restore",
        "run",
        parsers.restore,
        "restore images: basicsr restore photos -o restored",
    ),
    "page": Command(
        "cir_cli.page",
        "run",
        parsers.page,
        "open a local page to restore images, and see them before and after",
    ),
    "results": Command(
        "cir_cli.results",
        "run",
        parsers.results,
        "measure a checkpoint on the papers' test sets and write the results page",
    ),
    "prepare": Command(
        "cir_cli.prepare",
        "run",
        parsers.prepare,
        "make an LMDB or sub-images: basicsr prepare FOLDER -o OUT",
    ),
    "models": Command(
        "cir_cli.models",
        "run",
        parsers.models,
        "list the networks; basicsr models FILE: show what a checkpoint holds",
    ),
    "convert": Command(
        "cir_cli.convert", "run", parsers.convert, "write a checkpoint as safetensors, .pth or ONNX"
    ),
    "options": Command(
        "cir_cli.options_reference", "run", parsers.options, "print every key of an options file"
    ),
    "plot": Command(
        "cir_cli.plot",
        "run",
        parsers.plot,
        "draw the curves of a training run: basicsr plot experiments/NAME",
    ),
    "embed": Command(
        "cir_cli.embed",
        "run",
        parsers.embed,
        "plot CaVE's embeddings by JPEG quality: basicsr embed photos -m FILE -o PNG",
    ),
    "demo": Command(
        "cir_cli.demo",
        "run",
        parsers.demo,
        "restore photographs of scikit-image, then train and test a small PromptCIR",
    ),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a subcommand.

    Returns:
        The exit status of the subcommand: 0 if all went well, 2 after a ``UserError``, 130 after
        Ctrl-C, or that of :func:`run_watched` if a file or stream failed.
    """
    with warnings_stay_warnings():
        return run_watched(lambda: _run(argv))


def _run(argv: Sequence[str] | None) -> int:
    # torch.distributed.launch puts its own flag before the subcommand
    command, rest = _parse(normalise_argv(list(sys.argv[1:] if argv is None else argv)))
    # file names may not be UTF-8, and the terminal may be ASCII
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        status = COMMANDS[command].run(rest)
    except UserError as error:
        print(f"basicsr {command}: error: {printable(str(error))}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"basicsr {command}: interrupted", file=sys.stderr)
        return 130
    return status or 0


def _parse(arguments: list[str]) -> tuple[str, list[str]]:
    parser = argparse.ArgumentParser(
        "basicsr",
        description="Blind compressed-image restoration with BasicSR.",
        epilog="basicsr COMMAND --help describes a command.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"basicsr-cir {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, entry in COMMANDS.items():
        commands.add_parser(name, help=entry.summary, add_help=False)
    # the subcommand parses its own flags; for train and test, BasicSR does
    return parser.parse_args(arguments[:1]).command, arguments[1:]
