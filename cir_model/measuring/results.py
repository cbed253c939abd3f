"""What a validation found, input beside output, written as CSV, JSON and Markdown."""

import csv
import io
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cir_host.files import write_text_whole

KINDS = ("input", "output", "gain")


@dataclass(frozen=True)
class ImageRecord:
    """One image of a data set."""

    image: str
    made_by: Mapping[str, Any]
    """How its input came to be: ``quality``, ``subsampling``, ``codec`` where the data set says."""
    scores: Mapping[str, Mapping[str, float]]
    """``scores[metric][kind]`` with the kinds of :data:`KINDS`; one without a value is absent."""


@dataclass
class DataSetResult:
    """All images of one data set in one validation."""

    data_set: str
    iteration: int | str
    protocol: dict[str, Any]
    records: list[ImageRecord] = field(default_factory=list)

    def mean(self, metric: str, kind: str) -> float:
        """Mean over the images that have the value; NaN where none has."""
        values = [r.scores[metric][kind] for r in self.records if kind in r.scores.get(metric, {})]
        return math.fsum(values) / len(values) if values else math.nan

    def undefined(self, metric: str) -> list[str]:
        """Images without a value of the metric, such as SSIM below 11 pixels."""
        return [r.image for r in self.records if "output" not in r.scores.get(metric, {})]

    def means(self, metrics: Iterable[str]) -> dict[str, dict[str, float]]:
        """``means[metric][kind]`` for every kind that at least one image has."""
        table = {m: {k: self.mean(m, k) for k in KINDS} for m in metrics}
        return {m: {k: v for k, v in row.items() if not math.isnan(v)} for m, row in table.items()}


def write_results(
    folder: Path, run: Mapping[str, Any], results: Iterable[DataSetResult], metrics: list[str]
) -> None:
    """Write ``metrics.csv``, ``metrics.json`` and ``metrics.md`` into a folder.

    Args:
        folder: Where to write; it exists.
        run: What holds for all data sets: network, checkpoint, versions, inference.
        results: One per data set.
        metrics: Names of the metrics in the order of the options file.

    Rows of other iterations that the CSV file holds already stay in it, so that a training run
    keeps its history; JSON and Markdown show the given results alone.
    """
    results = list(results)
    write_text_whole(folder / "metrics.csv", _csv_text(folder / "metrics.csv", results, metrics))
    document = {
        **run,
        "data_sets": {
            r.data_set: {
                "iteration": r.iteration,
                "protocol": r.protocol,
                "mean": r.means(metrics),
                "undefined": {m: r.undefined(m) for m in metrics if r.undefined(m)},
                "images": [{"image": i.image, **i.made_by, "scores": i.scores} for i in r.records],
            }
            for r in results
        },
    }
    write_text_whole(
        folder / "metrics.json", json.dumps(document, indent=2, ensure_ascii=False) + "\n"
    )
    write_text_whole(folder / "metrics.md", markdown_table(results, metrics))


def markdown_table(results: Iterable[DataSetResult], metrics: list[str]) -> str:
    """Return a Markdown table, a row per data set, ``input / output / gain`` in a cell."""
    results = list(results)
    head = ["data set", "images", *(f"{m}: input / output / gain" for m in metrics)]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for result in results:
        cells = [result.data_set, str(len(result.records))]
        for metric in metrics:
            values = {kind: result.mean(metric, kind) for kind in KINDS}
            cells.append(" / ".join(_cell(kind, value) for kind, value in values.items()))
        lines.append("| " + " | ".join(cells) + " |")
    sharing: dict[str, list[str]] = {}
    for result in results:
        facts = "; ".join(f"{key}: {value}" for key, value in result.protocol.items())
        sharing.setdefault(facts, []).append(result.data_set)
    notes = [f"{', '.join(names)}: {facts}." for facts, names in sharing.items()]
    return "\n".join([*lines, "", *notes]) + "\n"


def _cell(kind: str, value: float) -> str:
    if math.isnan(value):
        return "–"
    return f"{value:+.4f}" if kind == "gain" else f"{value:.4f}"


def _csv_text(path: Path, results: list[DataSetResult], metrics: list[str]) -> str:
    columns = ["data_set", "iteration", "image", "quality", "subsampling", "codec"]
    columns += [f"{metric}_{kind}" for metric in metrics for kind in KINDS]
    new = {(r.data_set, str(r.iteration)) for r in results}
    rows: list[dict[str, Any]] = []
    if path.exists():
        with path.open(newline="", encoding="utf-8", errors="backslashreplace") as file:
            found = csv.DictReader(file)
            rows = [r for r in found if (r.get("data_set"), r.get("iteration")) not in new]
    for result in results:
        where = {"data_set": result.data_set, "iteration": result.iteration}
        for record in result.records:
            rows.append({**where, "image": record.image, **record.made_by, **_flat(record.scores)})
        rows.append({**where, "image": "mean", **_flat(result.means(metrics))})
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()


def _flat(scores: Mapping[str, Mapping[str, float]]) -> dict[str, str]:
    return {f"{m}_{k}": f"{v:.6f}" for m, kinds in scores.items() for k, v in kinds.items()}
