"""``basicsr results``: measure a network on the papers' test sets and write the results page."""

import argparse
from pathlib import Path

from cir_arch import load_network
from cir_cli import parsers
from cir_cli.results_page import fill, write_page
from cir_cli.showcase import show
from cir_data.images.photographs import SHOWPIECES
from cir_host.checkpoint import locate
from cir_host.errors import UserError
from cir_host.file_names import short_name
from cir_model.measuring.protocol import TEST_SETS, store_at
from cir_model.measuring.provenance import facts_of_run
from cir_model.measuring.runner import measure, plan
from cir_model.measuring.store import Store
from cir_model.metrics import perceptual
from cir_model.restoring.inference import Restorer
from cir_model.restoring.settings import InferenceOptions
from cir_weights import default_weights


def run(arguments: list[str]) -> None:
    """Measure the network, then write the page.

    Raises:
        UserError: A file or folder cannot be read or written.
    """
    options = parsers.results().parse_args(arguments)
    weights = locate(options.model) if options.model else default_weights()
    folder: Path = options.output or Path("docs/results") / weights.stem
    store = store_at(folder / short_name(weights.stem, ".csv"))
    try:
        if not options.page_only:
            _measure(options, weights, store)
        if options.shard is None:
            write_page(store, options.page or folder / "RESULTS.md")
            for card in options.fill:
                fill(card, store)
    except OSError as error:
        raise UserError(f"{error.filename or folder}: {error.strerror or error}") from error


def _measure(options: argparse.Namespace, weights: Path, store: Store) -> None:
    planned = list(plan(options.data, options.every))
    if not planned:
        folders = ", ".join(test_set.options["dataroot_gt"] for test_set in TEST_SETS)
        raise UserError(
            f"--data {options.data}: holds none of the test sets; it needs at least one of the"
            f" folders {folders}"
        )
    for name in perceptual.METRICS:
        if reason := perceptual.lacking(name):
            print(f"{name.upper()} is left out: {reason}")
    restorer = Restorer([load_network(weights)], InferenceOptions(tile=options.tile))
    part, parts = options.shard or (1, 1)
    measure(restorer, store, planned[part - 1 :: parts], facts_of_run(weights, restorer))
    if options.shard is None:
        store.tidy()
        _write_pictures(restorer, store.path.parent)


def _write_pictures(restorer: Restorer, folder: Path) -> None:
    for index, piece in enumerate(SHOWPIECES, 1):
        show(restorer, piece).strip.save(folder / f"picture_{index}.webp", lossless=True)
