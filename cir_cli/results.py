"""``basicsr results``: a network measured on the papers' test sets, and the page that shows it."""

import argparse
from pathlib import Path

from cir_arch import load_network
from cir_cli import parsers
from cir_cli.results_page import fill, write_page
from cir_cli.showcase import SHOWPIECES, show
from cir_host.errors import UserError
from cir_host.file_names import short_name
from cir_model.measuring.protocol import Table, facts_of_run, jobs, measure
from cir_model.metrics import perceptual
from cir_model.restoring.inference import Restorer
from cir_model.restoring.options import InferenceOptions
from cir_weights import default_weights


def run(arguments: list[str]) -> None:
    """Measure, and write the page once everything is measured.

    Raises:
        UserError: A file or folder cannot be used.
    """
    options = parsers.results().parse_args(arguments)
    weights: Path = options.model or default_weights()
    folder: Path = options.output or Path("docs/results") / weights.stem
    table = Table(folder / short_name(weights.stem, ".csv"))
    try:
        if not options.page_only:
            _measure(options, weights, table)
        if options.shard is None:
            write_page(table, options.page or folder / "RESULTS.md")
            for card in options.fill:
                fill(card, table)
    except OSError as error:
        raise UserError(f"{error.filename or folder}: {error.strerror or error}") from error


def _measure(options: argparse.Namespace, weights: Path, table: Table) -> None:
    work = list(jobs(options.data, options.every))
    if not work:
        raise UserError(f"--data {options.data}: holds none of the test sets")
    for name in perceptual.METRICS:
        if reason := perceptual.lacking(name):
            print(f"{name.upper()} is left out: {reason}")
    restorer = Restorer([load_network(weights)], InferenceOptions(tile=options.tile))
    part, parts = options.shard or (1, 1)
    measure(restorer, table, work[part - 1 :: parts], facts_of_run(weights, restorer))
    if options.shard is None:
        table.tidy()
        _write_pictures(restorer, table.path.parent)


def _write_pictures(restorer: Restorer, folder: Path) -> None:
    for index, piece in enumerate(SHOWPIECES, 1):
        show(restorer, piece).strip.save(folder / f"picture_{index}.webp", lossless=True)
