"""``basicsr prepare``: folders of images into an LMDB, a folder of sub-images or a list."""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from cir_cli import parsers
from cir_data.prepare.preparation import (
    Preparation,
    Report,
    Settings,
    free_bytes,
    keys_of,
    write_meta_info,
)
from cir_data.prepare.recipes import RECIPES, Recipe
from cir_data.storage.sources import PassedOver, StoredImage, find_images, some
from cir_host.errors import UserError


def run(arguments: list[str]) -> None:
    """Prepare a store of images.

    Raises:
        UserError: Nothing was made, or, at the end, something had to be left out as unreadable.
    """
    options = _parse(arguments)
    if options.recipe:
        recipe = RECIPES[options.recipe]
        print(recipe.describe(), flush=True)
        images, passed_over = _open_recipe(recipe, options.datasets), PassedOver()
        output = options.output or options.datasets / f"{options.recipe}.lmdb"
    else:
        roots, passed_over = find_images("input", options.input)
        images, output = [image for root in roots for image in root], options.output
    with _Bars(len(images)) as bars:
        if output.suffix == ".txt":
            report = write_meta_info(
                images,
                output,
                options.workers,
                overwrite=options.overwrite,
                unusable=passed_over.unusable,
                progress=bars.start("Reading headers"),
            )
        else:
            report = _prepare(images, passed_over.unusable, output, options, bars)
    if others := passed_over.describe():
        print(f"Left out, as their names are not those of images: {others}.")
    _tell(report, output)


def _prepare(
    images: Sequence[StoredImage],
    unusable: Sequence[str],
    output: Path,
    options: argparse.Namespace,
    bars: "_Bars",
) -> Report:
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
    print(f"{output}: will take {most}{_amount(needed)}; {_amount(free)} are free.")
    if options.store == "raw" and needed > free:
        raise UserError(
            f"{output}: raw pixels take {_amount(needed)}, but {_amount(free)} are free;"
            " --store png takes about half, or choose another disk"
        )
    return preparation.run(options.workers, bars.start("Preparing"))


def _open_recipe(recipe: Recipe, datasets: Path) -> list[StoredImage]:
    images = [image for part in recipe.open(datasets) for image in part]
    recipe.check_pixels(images)
    return images


def _tell(report: Report, output: Path) -> None:
    print(f"{output}: {report.entries:,} images, made of {report.images:,} files.")
    if report.coarse:
        print(f"Left out as coarse JPEGs: {len(report.coarse):,}: {some(report.coarse)}")
    if report.unreadable:
        raise UserError(
            f"{len(report.unreadable):,} of the files or folders could not be read; {output} was"
            f" made of the others. {some(report.unreadable)}"
        )


class _Bars:
    """The progress bars of a run, one after the other, over the source images."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._bar: tqdm[Any] | None = None

    def __enter__(self) -> "_Bars":
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def start(self, title: str) -> Callable[[], object]:
        """Return what to call for each image."""
        bar = self._bar = tqdm(total=self._total, desc=title, unit="image")
        return bar.update

    def end(self) -> None:
        """End the bar that runs, so that what is printed next has its own line."""
        if self._bar is not None:
            self._bar.close()


def _amount(size: int) -> str:
    return f"{size / 1e9:,.1f} GB" if size >= 1e9 else f"{size / 1e6:,.1f} MB"


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = parsers.prepare()
    options = parser.parse_args(arguments)
    if bool(options.recipe) == bool(options.input):
        parser.error("give input folders or --recipe NAME")
    if options.input and options.output is None:
        parser.error("give the output, -o OUT")
    if options.recipe and RECIPES[options.recipe].sub_images and options.size is None:
        options.size = 480
    if options.size is None and (options.step or options.threshold):
        parser.error("--step and --threshold need --size")
    return options
