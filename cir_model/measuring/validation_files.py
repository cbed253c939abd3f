"""The files that a validation writes: ``metrics.csv``, ``.json`` and ``.md``, and saved images."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

from cir_host.errors import UserError
from cir_host.file_names import folded
from cir_host.files import write_text_whole
from cir_model.measuring.record import KINDS, Measurement, mean_of
from cir_model.measuring.store import Columns, Store

MEAN = "mean"
"""What the column ``image`` holds in the row of the means over a data set."""


def columns(metrics: Iterable[str]) -> Columns:
    """Return the columns of ``metrics.csv``.

    Args:
        metrics: Names of the metrics in the order of the options file.
    """
    names = ("data_set", "iteration", "image", "quality", "subsampling", "codec")
    key = ("data_set", "iteration", "image")
    return Columns({name: name for name in names}, key, tuple(metrics), KINDS, decimals=6)


@dataclass
class DataSetResult:
    """All images of one data set in one validation."""

    data_set: str
    iteration: int | str
    protocol: dict[str, Any]
    records: list[Measurement] = field(default_factory=list)

    def mean(self, metric: str, kind: str) -> float:
        """Return the mean over the images that have the score; NaN if none has."""
        return mean_of(self.records, metric, kind)

    def undefined(self, metric: str) -> list[str]:
        """Return the images without a score, such as SSIM of images below 11 pixels."""
        return [r.image for r in self.records if "output" not in r.scores.get(metric, {})]

    def means(self, metrics: Iterable[str]) -> dict[str, dict[str, float]]:
        """Return ``means[metric][kind]`` for every kind that at least one image has."""
        table = {m: {k: self.mean(m, k) for k in KINDS} for m in metrics}
        return {m: {k: v for k, v in row.items() if not math.isnan(v)} for m, row in table.items()}


def write_results(
    folder: Path,
    run: Mapping[str, Any],
    results: Iterable[DataSetResult],
    metrics: Sequence[str],
) -> None:
    """Write ``metrics.csv``, ``metrics.json`` and ``metrics.md`` into a folder.

    The CSV file keeps its rows of other iterations: the history of a training run. JSON and
    Markdown hold only the given results.

    Args:
        folder: Where to write; it exists.
        run: What is common to all data sets: network, checkpoint, versions, inference.
        results: One per data set.
        metrics: Names of the metrics in the order of the options file.

    Raises:
        OSError: A file cannot be written.
        UserError: ``metrics.csv`` exists and is not a CSV file.
    """
    results = list(results)
    store = Store(folder / "metrics.csv", columns(metrics))
    rows: list[Measurement] = []
    for result in results:
        means = result.means(metrics)
        rows += result.records
        rows.append(Measurement(result.data_set, MEAN, means, iteration=result.iteration))
    store.replace(rows, by=("data_set", "iteration"))
    data_sets = {
        r.data_set: {
            "iteration": r.iteration,
            "protocol": r.protocol,
            "mean": r.means(metrics),
            "undefined": {m: r.undefined(m) for m in metrics if r.undefined(m)},
            "images": [{"image": i.image, **i.made_by, "scores": i.scores} for i in r.records],
        }
        for r in results
    }
    store.write_facts({**run, "data_sets": data_sets})
    write_text_whole(folder / "metrics.md", markdown_table(results, metrics))


def read_means(folder: Path) -> dict[str, dict[str, dict[str, float]]]:
    """Return ``means[data_set][metric][kind]`` of the last validation in a folder.

    Returns:
        Empty if the folder has no ``metrics.json``.

    Raises:
        UserError: ``metrics.json`` is damaged.
    """
    store = Store(folder / "metrics.csv", columns(()))
    if not store.facts_path.exists():
        return {}
    try:
        return {name: found["mean"] for name, found in store.facts["data_sets"].items()}
    except (AttributeError, KeyError, TypeError) as error:
        raise UserError(f"{store.facts_path}: lacks the means of its data sets") from error


def markdown_table(results: Iterable[DataSetResult], metrics: Sequence[str]) -> str:
    """Return a Markdown table with one row per data set and ``input / output / gain`` per cell."""
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


class UniqueNames:
    """Unique names for saved images: the stem, or a longer name if two images share a stem.

    They also differ on file systems that ignore case or Unicode normalisation.
    """

    def __init__(self) -> None:
        self._taken = {"", ".", ".."}  # names of folders

    def take(self, path: str) -> str:
        """Return a name for the image of a path that no earlier one has."""
        name = next(name for name in self._candidates(path) if folded(name) not in self._taken)
        self._taken.add(folded(name))
        return name

    @staticmethod
    def _candidates(path: str) -> Iterator[str]:
        parts = [part.strip("/\\") for part in Path(path).parts]
        yield Path(path).stem
        for depth in range(1, len(parts) + 1):
            yield "_".join(parts[-depth:]).replace(".", "_")
        for number in count(2):
            yield f"{Path(path).stem}_{number}"
