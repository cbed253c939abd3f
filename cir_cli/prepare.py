"""``basicsr prepare``: makes an LMDB, a folder of sub-images or a list from folders of images."""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from cir_cli import parsers
from cir_data.messages import first_few
from cir_data.prepare.image_list import write_meta_info
from cir_data.prepare.keys import keys_of
from cir_data.prepare.known_datasets import KNOWN_DATASETS, KnownDataset
from cir_data.prepare.one_image import Settings
from cir_data.prepare.outputs import PreparationReport, free_bytes
from cir_data.prepare.preparation import Preparation
from cir_data.storage.dataroots import find_images
from cir_data.storage.image_source import StoredImage
from cir_data.storage.skipped_files import SkippedFiles
from cir_host.errors import UserError


def run(arguments: list[str]) -> None:
    """Prepare a store of images.

    Raises:
        UserError: Nothing was made; or, at the end, some inputs were unreadable and skipped.
    """
    options = _parse(arguments)
    if options.recipe:
        data_set = KNOWN_DATASETS[options.recipe]
        print(data_set.describe(), flush=True)
        images, skipped = _open_recipe(data_set, options.datasets), SkippedFiles()
        output = options.output or options.datasets / f"{options.recipe}.lmdb"
    else:
        roots, skipped = find_images("input", options.input)
        images, output = [image for root in roots for image in root], options.output
    with _Bars(len(images)) as bars:
        if output.suffix == ".txt":
            report = write_meta_info(
                images,
                output,
                options.workers,
                overwrite=options.overwrite,
                unusable=skipped.unusable,
                progress=bars.start("Reading headers"),
            )
        else:
            report = _prepare(images, skipped.unusable, output, options, bars)
    if others := skipped.describe():
        print(f"Skipped files that are not named like images: {others}.")
    _tell(report, output)


def _prepare(
    images: Sequence[StoredImage],
    unusable: Sequence[str],
    output: Path,
    options: argparse.Namespace,
    bars: "_Bars",
) -> PreparationReport:
    settings = Settings(
        store=options.store,
        size=options.size,
        step=options.step or (options.size or 0) // 2,
        threshold=options.threshold,
        min_jpeg_quality=options.min_jpeg_quality,
    )
    keys = keys_of(images, options.remove_suffix)
    preparation = Preparation(
        images, keys, output, settings, overwrite=options.overwrite, unusable=unusable
    )
    needed = preparation.bytes_needed(options.workers, bars.start("Reading headers"))
    bars.end()
    free = free_bytes(output)
    most = "" if options.store == "raw" else "at most "
    print(f"{output}: needs {most}{_amount(needed)}; {_amount(free)} are free.")
    if options.store == "raw" and needed > free:
        raise UserError(
            f"{output}: raw pixels take {_amount(needed)}, but {_amount(free)} are free;"
            " --store png takes about half, or choose another disk"
        )
    return preparation.run(options.workers, bars.start("Preparing"))


def _open_recipe(data_set: KnownDataset, datasets: Path) -> list[StoredImage]:
    images = [image for folder in data_set.open(datasets) for image in folder]
    data_set.check_pixels(images)
    return images


def _tell(report: PreparationReport, output: Path) -> None:
    print(f"{output}: {report.entries:,} images, made from {report.images:,} files.")
    if report.coarse:
        print(f"Skipped JPEGs of low quality: {len(report.coarse):,}: {first_few(report.coarse)}")
    if report.unreadable:
        raise UserError(
            f"{len(report.unreadable):,} of the files or folders could not be read; {output} was"
            f" made from the others. {first_few(report.unreadable)}"
        )


class _Bars:
    """The progress bars of a run, one after the other; each counts source images."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._bar: tqdm[Any] | None = None

    def __enter__(self) -> "_Bars":
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def start(self, title: str) -> Callable[[], object]:
        """Start a bar; return a function to call after each image."""
        bar = self._bar = tqdm(total=self._total, desc=title, unit="image")
        return bar.update

    def end(self) -> None:
        """Close the current bar, so that the next message starts on a new line."""
        if self._bar is not None:
            self._bar.close()


def _amount(size: int) -> str:
    return f"{size / 1e9:,.1f} GB" if size >= 1e9 else f"{size / 1e6:,.1f} MB"


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = parsers.prepare()
    options = parser.parse_args(arguments)
    if bool(options.recipe) == bool(options.input):
        parser.error("give either input folders or --recipe NAME")
    if options.input and options.output is None:
        parser.error("give the output, -o OUT")
    if options.recipe and KNOWN_DATASETS[options.recipe].sub_images and options.size is None:
        options.size = 480
    if options.size is None and (options.step or options.threshold):
        parser.error("--step and --threshold need --size")
    return options
