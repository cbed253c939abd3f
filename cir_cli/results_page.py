"""The results page of a network: tables, a plot and pictures, from its stored measurements."""

import math
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from cir_cli.figures import new_figure
from cir_data.images.photographs import SHOWPIECES
from cir_host.errors import UserError
from cir_host.file_names import printable
from cir_host.files import write_text_whole
from cir_model.measuring.protocol import (
    DOUBLE_SHIFT,
    FURTHER,
    HELD_OUT,
    JPEG_ONCE,
    MAIN_QUALITIES,
    METRICS,
    QUALITIES,
    TEST_SETS,
    EvaluationSet,
)
from cir_model.measuring.provenance import Provenance, read_provenance
from cir_model.measuring.published import LIVE1_COLOUR, SOURCE
from cir_model.measuring.record import Measurement, mean_of, values_of
from cir_model.measuring.store import Store

_DECIMALS = {"psnr": 2, "ssim": 4, "psnrb": 2, "lpips": 4, "dists": 4}
_NAMES = {"psnr": "PSNR", "ssim": "SSIM", "psnrb": "PSNR-B", "lpips": "LPIPS", "dists": "DISTS"}
_SHOWN = ("psnr", "ssim", "psnrb")
"""Metrics in every table; the others appear where they were measured."""

_MARKS = re.compile(r"(<!-- results -->\n).*?(<!-- end -->)", re.DOTALL)


def write_page(store: Store, page: Path) -> None:
    """Write the page, and the plot beside the CSV file.

    Raises:
        UserError: The store is empty or damaged, or matplotlib is not installed.
    """
    results = _Results(store)
    curve = store.path.with_name("gain.png")
    _draw(results, curve)
    link = quote(os.fsencode(Path(os.path.relpath(store.path.parent, page.parent)).as_posix()))
    write_text_whole(page, "\n\n".join([*_parts(results, link), ""]).rstrip("\n") + "\n")
    print(page)


def fill(file: Path, store: Store) -> None:
    """Write the table of LIVE1 between the marks of a Markdown file.

    Raises:
        UserError: The file cannot be read, or has no marks.
    """
    try:
        text = file.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"--fill {file}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"--fill {file}: not UTF-8 text ({error.reason})") from error
    if not _MARKS.search(text):
        raise UserError(f"--fill {file}: has no lines <!-- results --> and <!-- end -->")
    short = _summary(_Results(store))
    write_text_whole(file, _MARKS.sub(lambda m: f"{m[1]}\n{short}\n\n{m[2]}", text))
    print(file)


class _Results:
    """The measurements of a store, and selections of them."""

    def __init__(self, store: Store) -> None:
        self.records = store.read()
        if not self.records:
            raise UserError(f"{store.path}: holds no results; `basicsr results` measures them")
        self.facts = read_provenance(store)
        self.file = store.path.name

    def of(self, test_set: str, name: str) -> list[Measurement]:
        wanted = test_set, name
        return [r for r in self.records if (r.data_set, r.made_by.get("input")) == wanted]

    def present(self) -> list[EvaluationSet]:
        there = {record.data_set for record in self.records}
        return [test_set for test_set in TEST_SETS if test_set.name in there]

    def at_every_quality(self, test_set: str) -> dict[int, list[Measurement]]:
        """Return by quality the records of the images that were measured at every quality."""
        by_quality = {q: self.of(test_set, d.name) for q, d in JPEG_ONCE.items()}
        shared = set.intersection(*({r.image for r in records} for records in by_quality.values()))
        return {q: [r for r in records if r.image in shared] for q, records in by_quality.items()}

    def seconds_per_megapixel(self, test_set: str) -> float:
        records = [r for r in self.records if r.data_set == test_set]
        pixels = sum((r.height or 0) * (r.width or 0) for r in records)
        seconds = sum(r.seconds or 0.0 for r in records)
        return seconds / (pixels / 1e6) if pixels else math.nan


def _mean(records: Sequence[Measurement], metric: str, kind: str) -> float | None:
    """Return the mean of a score; None if an image lacks it."""
    complete = records and len(values_of(records, metric, kind)) == len(records)
    return mean_of(records, metric, kind) if complete else None


def _gain(records: Sequence[Measurement], metric: str = "psnr") -> float | None:
    before, after = (_mean(records, metric, kind) for kind in ("input", "output"))
    return None if before is None or after is None else after - before


def _formatted(value: float | None, metric: str, sign: str = "") -> str:
    return "–" if value is None else f"{value:{sign}.{_DECIMALS[metric]}f}"


def _scores(records: Sequence[Measurement], kind: str) -> str:
    return " / ".join(_formatted(_mean(records, m, kind), m) for m in _SHOWN)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _parts(results: _Results, link: str) -> Iterable[str]:
    facts = results.facts
    yield f"# Results of `{facts.weights}`"
    yield (
        f"{facts.network}, {facts.parameters:,} parameters, {facts.precision},"
        f" {_inference(facts)}. Measured with {facts.codec}, Pillow's defaults (4:2:0), torch"
        f" {facts.torch}, on {facts.device}; SHA-256 of the weights"
        f" `{facts.sha256[:16]}`. Metrics are computed on 8-bit images over all channels without"
        " cropping a border, and averaged over images. Grey images pass through the network as"
        " three equal channels, and the luma of the output is measured. Every figure is in"
        f" [{printable(results.file)}]({link}/{quote(os.fsencode(results.file))}), one row per"
        " image; `basicsr"
        " results` measured them and wrote this page."
    )
    yield "## LIVE1, colour, beside published figures"
    yield _summary(results)
    yield (
        f"PSNR / SSIM / PSNR-B. Rows marked “quoted” are from {SOURCE}; their PSNR-B may"
        " follow another definition than ours."
    )
    yield "## Gain over quality"
    yield f"![Gain in PSNR over JPEG quality]({link}/gain.png)"
    for test_set in results.present():
        yield from _every_quality(results, test_set)
    if any(results.of(HELD_OUT.name, recipe.name) for recipe in FURTHER):
        yield "## Compressed twice, and not compressed"
        yield _further(results)
    yield "## Speed"
    yield _speed(results)
    yield "## Pictures"
    yield (
        "JPEG, restored, ground truth; magnified without smoothing. The bundled weights were not"
        " trained on them."
    )
    for number, piece in enumerate(SHOWPIECES, 1):
        title = f"{piece.name}, quality {piece.quality}"
        yield f"![{title}]({link}/picture_{number}.webp)\n\n{piece.name} ({piece.credit})"


def _inference(facts: Provenance) -> str:
    return f"tiles of {facts.tile}" if isinstance(facts.tile, int) else facts.tile


def _summary(results: _Results) -> str:
    """Return the table of LIVE1 at the qualities of the papers, or of the first set if it lacks."""
    names = [test_set.name for test_set in results.present()]
    test_set = "LIVE1" if "LIVE1" in names else names[0]
    rows = {q: results.of(test_set, JPEG_ONCE[q].name) for q in MAIN_QUALITIES}
    millions = f"{results.facts.parameters / 1e6:.2f}M"
    ours = f"**{results.facts.weights}**"
    lines = [
        ["JPEG", "", *(_scores(r, "input") for r in rows.values())],
        [ours, millions, *(_scores(r, "output") for r in rows.values())],
        ["gain, PSNR", "", *(_formatted(_gain(r), "psnr", "+") for r in rows.values())],
        ["PSNR − PSNR-B", "", *(_formatted(_blocking(r), "psnr") for r in rows.values())],
    ]
    if test_set == "LIVE1":
        for published in LIVE1_COLOUR:
            cells = [cell.replace("/", " / ") for cell in published.scores.split()]
            lines.append([f"{published.network} (quoted)", published.parameters, *cells])
    return _table([test_set, "parameters", *(f"q = {q}" for q in rows)], lines)


def _blocking(records: Sequence[Measurement]) -> float | None:
    psnr, psnrb = (_mean(records, metric, "output") for metric in ("psnr", "psnrb"))
    return None if psnr is None or psnrb is None else psnr - psnrb


def _every_quality(results: _Results, test_set: EvaluationSet) -> Iterable[str]:
    yield f"### {test_set.name}: {test_set.about}"
    rows = {q: results.of(test_set.name, JPEG_ONCE[q].name) for q in QUALITIES}
    metrics = [m for m in METRICS if m in _SHOWN or _measured(rows.values(), m)]
    head = ["quality", "images", *(f"{_NAMES[m]}: input / output / gain" for m in metrics)]
    lines = []
    for quality, some in rows.items():
        if some:
            cells = [_three(some, metric) for metric in metrics]
            lines.append([str(quality), str(len(some)), *cells])
    yield _table(head, lines)
    if len({len(some) for some in rows.values() if some}) > 1:
        yield (
            "Rows with fewer images use every n-th image, sorted by name; compare them with each"
            " other, not with the rows of all images. The curve shows the images that were measured"
            " at every quality."
        )


def _measured(groups: Iterable[Sequence[Measurement]], metric: str) -> bool:
    return any(values_of(records, metric, "output") for records in groups)


def _three(records: Sequence[Measurement], metric: str) -> str:
    before, after = (
        _formatted(_mean(records, metric, kind), metric) for kind in ("input", "output")
    )
    return f"{before} / {after} / {_formatted(_gain(records, metric), metric, '+')}"


def _further(results: _Results) -> str:
    name = HELD_OUT.name
    height, width = DOUBLE_SHIFT
    lines = []
    for recipe in FURTHER:
        if records := results.of(name, recipe.name):
            cells = [_three(records, metric) for metric in _SHOWN]
            lines.append([recipe.name, str(len(records)), *cells])
    head = [name, "images", *(f"{_NAMES[m]}: input / output / gain" for m in _SHOWN)]
    return _table(head, lines) + (
        f"\n\n“q20 shifted q75”: quality 20, then {height} rows and {width} columns cut off, then"
        " quality 75. “clean”: the ground truth itself, restored and compared with itself;"
        " `basicsr restore` copies lossless files unless `--force` is given."
    )


def _speed(results: _Results) -> str:
    lines = [
        [test_set.name, f"{results.seconds_per_megapixel(test_set.name):.1f}"]
        for test_set in results.present()
    ]
    return _table(["", "seconds per megapixel"], lines) + (
        f"\n\nOn {results.facts.device}, the network alone, without reading, compressing and"
        " measuring; the machine may have been shared with other work."
    )


def _draw(results: _Results, output: Path) -> None:
    figure = new_figure("basicsr results", 7, 4)
    axis: Any = figure.subplots()
    for test_set in results.present():
        rows = results.at_every_quality(test_set.name)
        gains = {q: gain for q, some in rows.items() if (gain := _gain(some)) is not None}
        if gains:
            label = f"{test_set.name} ({len(next(iter(rows.values())))} images)"
            axis.plot(list(gains), list(gains.values()), marker=".", label=label)
    axis.axhline(0, color="black", linewidth=0.8)
    axis.set(xlabel="JPEG quality", ylabel="gain in PSNR, dB")
    axis.set_title(results.facts.weights, parse_math=False)
    axis.grid(alpha=0.3)
    if axis.lines[1:]:
        axis.legend()
    figure.savefig(output, dpi=110, metadata={"Software": None})
