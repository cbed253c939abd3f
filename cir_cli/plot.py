"""``basicsr plot``: draw the curves of a training run as one PNG."""

import csv
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from cir_cli import parsers
from cir_cli.figures import new_figure
from cir_host.errors import UserError
from cir_host.progress import RECORDS, read_records
from cir_model.measuring.validation_files import MEAN

Curve = tuple[list[float], list[float]]
Panels = dict[str, dict[str, Curve]]


def run(arguments: list[str]) -> None:
    """Draw losses, validation, gradient norm, learning rate and speed over the iterations.

    Raises:
        UserError: The folder holds no run, or matplotlib is not installed.
    """
    options = parsers.plot().parse_args(arguments)
    folder = next((f for f in (options.run, "experiments" / options.run) if f.is_dir()), None)
    if folder is None:
        raise UserError(
            f"{options.run}: neither this folder nor experiments/{options.run} exists; give the"
            " folder of a run"
        )
    panels = curves(folder)
    if not panels:
        raise UserError(
            f"{folder}: holds neither {RECORDS} nor metrics.csv; give the folder of a training run"
        )
    output = options.output or folder / "curves.png"
    _draw(panels, folder.name, output)
    print(output)


def curves(folder: Path) -> Panels:
    """Return the curves of a run: by title of the panel and name, iterations and values."""
    records = list(read_records(folder / RECORDS))
    panels: Panels = {}
    for name in dict.fromkeys(name for record in records for name in record):
        title = "loss" if name.startswith("l_") else _TITLES.get(name)
        if title is not None:
            panels.setdefault(title, {})[name] = _curve(records, "iter", name)
    for row_set, rows in _validations(folder / "metrics.csv").items():
        for column in rows[0]:
            metric, _, kind = column.rpartition("_")
            if kind == "gain":
                curve = _curve(rows, "iteration", column)
                panels.setdefault(f"gain over the input, {metric}", {})[row_set] = curve
    return panels


_TITLES = {
    "grad_norm": "gradient norm",
    "lr": "learning rate",
    "iterations_per_second": "iterations per second",
    "data_time": "seconds per iteration",
    "step_time": "seconds per iteration",
}
"""Titles of the panels for recorded numbers other than losses."""


def _curve(rows: Iterable[Mapping[str, Any]], x: str, y: str) -> Curve:
    points = [(float(row[x]), float(row[y])) for row in rows if row.get(y) not in (None, "")]
    return [point[0] for point in points], [point[1] for point in points]


def _validations(file: Path) -> dict[str, list[dict[str, str]]]:
    """Return the rows with mean metrics by data set."""
    found: dict[str, list[dict[str, str]]] = {}
    if file.exists():
        with file.open(newline="", encoding="utf-8") as stream:
            for row in csv.DictReader(stream):
                if row["image"] == MEAN and row["iteration"].isdecimal():
                    found.setdefault(row["data_set"], []).append(row)
    return found


def _draw(panels: Panels, title: str, output: Path) -> None:
    columns = min(2, len(panels))
    rows = -(-len(panels) // columns)
    figure = new_figure("basicsr plot", 6.5 * columns, 3.2 * rows)
    figure.suptitle(title)
    axes: list[Any] = [*figure.subplots(rows, columns, squeeze=False).flat]
    for axis, (name, lines) in zip(axes, panels.items(), strict=False):
        for label, (x, y) in lines.items():
            axis.plot(x, y, marker="." if len(x) < 50 else None, label=label)
        axis.set(title=name, xlabel="iteration")
        axis.grid(alpha=0.3)
        axis.legend(fontsize="small")
        if name == "learning rate" or (name == "loss" and _all_positive(lines)):
            axis.set_yscale("log")
    for axis in axes[len(panels) :]:
        axis.set_axis_off()
    figure.savefig(output, dpi=110)


def _all_positive(lines: Mapping[str, Curve]) -> bool:
    return all(value > 0 for _, values in lines.values() for value in values)
