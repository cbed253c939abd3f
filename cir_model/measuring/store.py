"""The one store of measurements: one row per image in ``NAME.csv``, common facts in ``NAME.json``.

Several processes can append to the same file, and an interrupted run resumes from its rows.
"""

import csv
import io
import json
import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeAlias

from cir_host.errors import UserError
from cir_host.file_names import short_name
from cir_host.files import PART, write_text_whole
from cir_model.measuring.record import Measurement

_Row: TypeAlias = dict[str, str]
"""Text by column, as it is in the file."""

_FIELDS = {field.name for field in fields(Measurement)} - {"scores", "made_by"}

_logger = logging.getLogger("basicsr")


@dataclass(frozen=True)
class Columns:
    """The columns of a CSV file, and how its numbers are written.

    Args:
        facts: Columns before the scores, each with the field of :class:`Measurement` that it shows,
            or else a key of ``made_by``.
        key: The columns that tell one measurement from another.
        metrics: Names of the metrics, in the order of the columns.
        kinds: Which scores of each metric have a column.
        decimals: How many decimals a score has.
    """

    facts: Mapping[str, str]
    key: tuple[str, ...]
    metrics: tuple[str, ...]
    kinds: tuple[str, ...]
    decimals: int

    @property
    def names(self) -> tuple[str, ...]:
        """The header of the file."""
        return (*self.facts, *(f"{m}_{kind}" for m in self.metrics for kind in self.kinds))

    def row_of(self, record: Measurement) -> _Row:
        """Return the text of a record by column; a missing value is an empty cell."""
        row = {}
        for column, name in self.facts.items():
            value = getattr(record, name) if name in _FIELDS else record.made_by.get(name)
            if value is not None:
                row[column] = f"{value:.3f}" if name == "seconds" else str(value)
        for metric in self.metrics:
            for kind, score in record.scores.get(metric, {}).items():
                if kind in self.kinds:
                    row[f"{metric}_{kind}"] = f"{score:.{self.decimals}f}"
        return row

    def record_of(self, row: Mapping[str, str]) -> Measurement:
        """Return the record of a row.

        Raises:
            ValueError: The row is incomplete, or a number in it is not one.
        """
        if None in row or None in row.values():
            raise ValueError("too many or too few cells")
        facts: dict[str, Any] = {}
        made_by: dict[str, str] = {}
        for column, name in self.facts.items():
            text = row.get(column, "")
            if name not in _FIELDS:
                made_by |= {name: text} if text else {}
            elif text or column in self.key:
                facts[name] = _PARSERS.get(name, str)(text)
        scores = {
            metric: {
                kind: float(text)
                for kind in self.kinds
                if (text := row.get(f"{metric}_{kind}", ""))
            }
            for metric in self.metrics
        }
        return Measurement(**facts, made_by=made_by, scores=scores)


_PARSERS: Mapping[str, Callable[[str], Any]] = {"height": int, "width": int, "seconds": float}


class Store:
    """Measurements in ``NAME.csv``, and what is common to all of them in ``NAME.json``.

    Args:
        path: The CSV file; it need not exist.
        columns: The columns of the CSV file.
        order: Sort key of the records in the file; None: the order in which they were added.
    """

    def __init__(
        self, path: Path, columns: Columns, order: Callable[[Measurement], Any] | None = None
    ) -> None:
        self.path = path
        self.facts_path = path.with_name(short_name(path.stem, ".json"))
        self.columns = columns
        self._order = order
        self._warned = False

    @property
    def facts(self) -> dict[str, Any]:
        """What is common to all measurements.

        Raises:
            UserError: The JSON file is missing or damaged.
        """
        try:
            facts = json.loads(self.facts_path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UserError(f"{self.facts_path}: {error}") from error
        if not isinstance(facts, dict):
            raise UserError(f"{self.facts_path}: holds no JSON object; delete it and measure again")
        return facts

    def write_facts(self, facts: Mapping[str, Any]) -> None:
        """Replace the JSON file."""
        write_text_whole(self.facts_path, _json_text(facts))

    def begin(self, facts: Mapping[str, Any], must_match: Sequence[str]) -> None:
        """Write the facts and the header of the CSV file unless an earlier run wrote them.

        Processes that begin at the same time write the same content, and none sees half a file.

        Args:
            facts: What is common to all measurements.
            must_match: Keys of the facts that an earlier run must share.

        Raises:
            UserError: An earlier run had other facts.
        """
        if not self.facts_path.exists():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            own = self.facts_path.with_name(f".{os.getpid()}{PART}")
            own.write_text(_json_text(facts), "utf-8")
            own.replace(self.facts_path)
        earlier = self.facts
        for key in must_match:
            if earlier.get(key) != facts[key]:
                raise UserError(
                    f"{self.path}: has figures of another {key} ({earlier.get(key)}, now"
                    f" {facts[key]}); delete it and its .json, or give another --output"
                )
        with suppress(FileExistsError), self.path.open("x", newline="", encoding="utf-8") as file:
            file.write(self._text([], header=True))
        if not self.path.read_bytes().endswith(b"\n"):  # a killed run left half a row
            with self.path.open("a", newline="", encoding="utf-8") as file:
                file.write("\n")

    def read(self) -> list[Measurement]:
        """Return all records, sorted; of two of the same key, the later one.

        Incomplete rows, which a killed process leaves, are left out with a warning.

        Raises:
            UserError: The file is not a CSV file.
        """
        found: dict[tuple[str | None, ...], Measurement] = {}
        incomplete = 0
        for row in self._rows():
            try:
                record = self.columns.record_of(row)
            except ValueError:
                incomplete += 1
            else:
                found[tuple(row.get(column) for column in self.columns.key)] = record
        if incomplete and not self._warned:
            self._warned = True
            _logger.warning(f"{self.path}: {incomplete} incomplete rows are left out.")
        records = list(found.values())
        return sorted(records, key=self._order) if self._order else records

    def append(self, record: Measurement) -> None:
        """Add a record by a single write, so that several processes can share the file."""
        with self.path.open("a", newline="", encoding="utf-8") as file:
            file.write(self._text([self.columns.row_of(record)]))

    def tidy(self) -> None:
        """Rewrite the file, sorted and without duplicates and incomplete rows."""
        rows = [self.columns.row_of(record) for record in self.read()]
        write_text_whole(self.path, self._text(rows, header=True))

    def replace(self, records: Iterable[Measurement], by: Sequence[str]) -> None:
        """Add records, and remove the earlier rows that equal one of them in the columns ``by``.

        The other rows stay as they are, except for columns that the file no longer has.

        Raises:
            UserError: The file is not a CSV file.
        """
        new = [self.columns.row_of(record) for record in records]
        replaced = {tuple(row.get(column) for column in by) for row in new}
        kept = [r for r in self._rows() if tuple(r.get(c) for c in by) not in replaced]
        write_text_whole(self.path, self._text([*kept, *new], header=True))

    def _rows(self) -> list[_Row]:
        if not self.path.exists():
            return []
        with self.path.open(newline="", encoding="utf-8", errors="backslashreplace") as file:
            try:
                return list(csv.DictReader(file))
            except csv.Error as error:
                raise UserError(f"{self.path}: no CSV file ({error}); move it away") from error

    def _text(self, rows: Iterable[_Row], header: bool = False) -> str:
        buffer = io.StringIO()
        writer = csv.DictWriter(
            buffer, self.columns.names, extrasaction="ignore", lineterminator="\n"
        )
        if header:
            writer.writeheader()
        writer.writerows(rows)
        return buffer.getvalue()


def _json_text(facts: Mapping[str, Any]) -> str:
    return json.dumps(facts, indent=2, ensure_ascii=False) + "\n"
