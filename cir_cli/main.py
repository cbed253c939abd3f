"""The command's front door: picks the subcommand, prints a user's mistake as one line."""

import argparse
import io
import sys
from collections.abc import Callable, Sequence

# Imported here, at the top of the main script, so that spawned workers register everything too.
import cir_arch  # noqa: F401
import cir_data  # noqa: F401
import cir_model  # noqa: F401
from cir_cli import (
    convert,
    demo,
    embed,
    models,
    options_reference,
    pipelines,
    plot,
    prepare,
    restore,
    results,
)
from cir_cli.standard_streams import run_watched
from cir_host import __version__
from cir_host.compat import warnings_stay_warnings
from cir_host.distributed import normalise_argv
from cir_host.errors import UserError
from cir_host.file_names import printable

COMMANDS: dict[str, tuple[Callable[[list[str]], int | None], str]] = {
    "train": (pipelines.train, "train a network: basicsr train -opt FILE.yml"),
    "test": (pipelines.test, "measure a network on test sets: basicsr test -opt FILE.yml"),
    "restore": (restore.run, "restore pictures: basicsr restore photos -o restored"),
    "results": (results.run, "measure weights on the papers' test sets and write the page of it"),
    "prepare": (prepare.run, "make an LMDB or sub-images: basicsr prepare FOLDER -o OUT"),
    "models": (models.run, "list the networks; basicsr models FILE: what a checkpoint holds"),
    "convert": (convert.run, "write a checkpoint as safetensors, .pth or ONNX"),
    "options": (options_reference.run, "print what may stand in an options file"),
    "plot": (plot.run, "draw the curves of a training run: basicsr plot experiments/NAME"),
    "embed": (embed.run, "draw CaVE's embeddings by quality: basicsr embed photos -m FILE -o PNG"),
    "demo": (
        demo.run,
        "restore photographs of scikit-image, then train and test a small PromptCIR",
    ),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a subcommand.

    Returns:
        0, or what the subcommand returns, or 2 after a user's mistake, or 130 after Ctrl-C, or what
        :func:`run_watched` says of files and streams that fail.
    """
    with warnings_stay_warnings():
        return run_watched(lambda: _run(argv))


def _run(argv: Sequence[str] | None) -> int:
    # torch.distributed.launch puts its own flag before the subcommand
    command, rest = _parse(normalise_argv(list(sys.argv[1:] if argv is None else argv)))
    if isinstance(
        sys.stdout, io.TextIOWrapper
    ):  # names may not be UTF-8, the terminal may be ASCII
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        status = COMMANDS[command][0](rest)
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
    for name, (_, summary) in COMMANDS.items():
        commands.add_parser(name, help=summary, add_help=False)
    # the subcommand's own flags are its own business; BasicSR parses those of train and test
    return parser.parse_args(arguments[:1]).command, arguments[1:]
