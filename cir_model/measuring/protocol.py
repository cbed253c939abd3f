"""What the results of a network are measured on, and the table of what came out.

A row of the table is one image of one test set, compressed in one way. Rows are appended as they
are measured, so that a run that was stopped goes on, and several processes share the work.
"""

import csv
import hashlib
import io
import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import torch
from basicsr.data import build_dataset
from basicsr.utils import tensor2img
from tqdm import tqdm

from cir_data.codecs.jpeg import codec_name
from cir_host.errors import UserError
from cir_host.file_names import printable, short_name
from cir_host.files import PART, write_text_whole
from cir_model.measuring.validation import scores_of
from cir_model.metrics import perceptual
from cir_model.restoring.inference import Restorer
from cir_model.restoring.pictures import restore_channels

Row: TypeAlias = dict[str, str]
"""Values of the columns of :data:`COLUMNS`, as they stand in the file."""

QUALITIES = tuple(range(5, 100, 5))
MAIN_QUALITIES = (10, 20, 30, 40)
"""Those of the papers' tables: always measured on all images."""


@dataclass(frozen=True)
class TestSet:
    """Images without loss."""

    __test__ = False  # for pytest, which collects what is called so

    name: str
    about: str
    options: Mapping[str, Any]
    """Keys of ``JPEGRestorationDataset``; ``dataroot_gt`` is below the folder of all test sets."""


@dataclass(frozen=True)
class Degrading:
    """How the inputs are made."""

    name: str
    """In the table."""
    options: Mapping[str, Any] | None
    """Keys of ``JPEGRestorationDataset``; None: the input is the original itself."""


TEST_SETS = (
    TestSet("LIVE1", "29 photographs, colour", {"dataroot_gt": "LIVE1"}),
    TestSet("Classic5", "5 grey images", {"dataroot_gt": "Classic5", "color": "gray"}),
    TestSet("Set14", "14 images; the grey ones as three equal channels", {"dataroot_gt": "Set14"}),
    TestSet(
        "photographs",
        "26 crops, held out of the training images",
        {"dataroot_gt": "train", "meta_info_file": "options/meta_info/photographs_val.txt"},
    ),
)

JPEG_ONCE = {quality: Degrading(f"q{quality}", {"quality": quality}) for quality in QUALITIES}

DOUBLE_SHIFT = (3, 5)
"""Rows and columns that the image loses between two compressions."""

DOUBLE = tuple(
    Degrading(
        f"q{first} shifted q{last}",
        {"quality": last, "double": {"quality": first, "shift": list(DOUBLE_SHIFT)}},
    )
    for first, last in ((20, 75), (75, 20))
)
CLEAN = Degrading("clean", None)
FURTHER = (*DOUBLE, CLEAN)
"""Measured on the held-out photographs alone."""

METRICS: dict[str, dict[str, Any]] = {
    "psnr": {"type": "calculate_psnr", "crop_border": 0},
    "ssim": {"type": "calculate_ssim", "crop_border": 0},
    "psnrb": {"type": "calculate_psnrb", "crop_border": 0},
    "lpips": {"type": "calculate_lpips", "better": "lower"},
    "dists": {"type": "calculate_dists", "better": "lower"},
}

COLUMNS = (
    *("set", "input", "image", "height", "width", "seconds"),
    *(f"{metric}_{kind}" for metric in METRICS for kind in ("input", "output")),
)


@dataclass(frozen=True)
class Job:
    """One image to measure."""

    test_set: TestSet
    degrading: Degrading
    data: Any
    """The data set that holds it, degraded."""
    index: int

    @property
    def key(self) -> tuple[str, str, str]:
        """What is alone in a table."""
        return self.test_set.name, self.degrading.name, self.image

    @property
    def image(self) -> str:
        """The name of the image, as the table holds it."""
        return printable(self.data.originals[self.index].stem)


class Table:
    """Rows in ``NAME.csv``, and in ``NAME.json`` what holds for all of them.

    Args:
        path: The CSV file; it need not be there.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._facts_path = path.with_name(short_name(path.stem, ".json"))

    @property
    def facts(self) -> dict[str, Any]:
        """What was measured, by what: weights, codec, versions, device.

        Raises:
            UserError: The file is not there, or damaged.
        """
        try:
            facts: dict[str, Any] = json.loads(self._facts_path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UserError(f"{self._facts_path}: {error}") from error
        return facts

    def begin(self, facts: Mapping[str, Any]) -> None:
        """Write what holds for all rows, and the head of the table, unless they stand there.

        Processes that begin at once write the same, and none sees a half of it.

        Raises:
            UserError: The table is of other weights, or of another codec.
        """
        if not self._facts_path.exists():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            own = self._facts_path.with_name(f".{os.getpid()}{PART}")
            own.write_text(json.dumps(facts, indent=2, ensure_ascii=False) + "\n", "utf-8")
            own.replace(self._facts_path)
        for key in ("sha256", "codec"):
            if self.facts.get(key) != facts[key]:
                raise UserError(
                    f"{self.path}: has figures of another {key} ({self.facts.get(key)}, now"
                    f" {facts[key]}); delete it and its .json, or give another --output"
                )
        with suppress(FileExistsError), self.path.open("x", newline="", encoding="utf-8") as file:
            file.write(_csv_text([], head=True))

    def rows(self) -> list[Row]:
        """Return all rows, in the order of the protocol; of two that measure the same, the last."""
        if not self.path.exists():
            return []
        with self.path.open(newline="", encoding="utf-8") as file:
            whole = [row for row in csv.DictReader(file) if None not in row.values()]
        found = {(row["set"], row["input"], row["image"]): row for row in whole}
        sets = {test_set.name: number for number, test_set in enumerate(TEST_SETS)}
        inputs = [degrading.name for degrading in (*JPEG_ONCE.values(), *FURTHER)]
        order = {name: number for number, name in enumerate(inputs)}
        return sorted(found.values(), key=lambda r: (sets[r["set"]], order[r["input"]], r["image"]))

    def append(self, row: Row) -> None:
        """Add a row by one write, so that several processes can."""
        with self.path.open("a", newline="", encoding="utf-8") as file:
            file.write(_csv_text([row], head=False))

    def tidy(self) -> None:
        """Write the rows in their order."""
        write_text_whole(self.path, _csv_text(self.rows(), head=True))


def _csv_text(rows: Iterable[Row], head: bool) -> str:
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, COLUMNS, restval="", lineterminator="\n")
    if head:
        writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()


def jobs(data: Path, every: int) -> Iterator[Job]:
    """Yield what is to be measured, what matters most first.

    Args:
        data: The folder of the test sets; one that is not in it is left out.
        every: Qualities that are not :data:`MAIN_QUALITIES` are measured on every so many images.
    """
    present = [s for s in TEST_SETS if (data / s.options["dataroot_gt"]).is_dir()]
    main = [JPEG_ONCE[quality] for quality in MAIN_QUALITIES]
    for degrading in (*main, *(d for d in JPEG_ONCE.values() if d not in main), *FURTHER):
        step = 1 if degrading in main else every
        for test_set in present:
            if degrading not in FURTHER or test_set is TEST_SETS[-1]:
                images = _data_set(test_set, degrading, data)
                yield from (
                    Job(test_set, degrading, images, i) for i in range(0, len(images), step)
                )


def _data_set(test_set: TestSet, degrading: Degrading, data: Path) -> Any:
    section = {"color": "rgb", **test_set.options, **(degrading.options or {"quality": 100})}
    section["dataroot_gt"] = str(data / section["dataroot_gt"])
    facts = {"name": test_set.name, "type": "JPEGRestorationDataset", "phase": "test"}
    return build_dataset({**facts, "scale": 1, "manual_seed": 0, **section})


def measure(
    restorer: Restorer, table: Table, work: Sequence[Job], facts: Mapping[str, Any]
) -> None:
    """Measure what the table lacks.

    Args:
        restorer: The network, in evaluation mode.
        table: Where the rows go.
        work: From :func:`jobs`, all or this process's part.
        facts: What holds for all rows, such as :func:`facts_of_run` gives.

    Raises:
        UserError: The table is of other weights, or an image cannot be read.
    """
    table.begin(facts)
    done = {(row["set"], row["input"], row["image"]) for row in table.rows()}
    metrics = {k: v for k, v in METRICS.items() if k not in perceptual.METRICS}
    metrics |= {k: METRICS[k] for k in perceptual.available()}
    left = [job for job in work if job.key not in done]
    for job in tqdm(left, unit="image", disable=None):
        table.append(_measured(restorer, job, metrics))


def _measured(restorer: Restorer, job: Job, metrics: Mapping[str, Any]) -> Row:
    sample = job.data[job.index]
    clean = job.degrading is CLEAN
    lq = sample["gt" if clean else "lq"]
    start = time.perf_counter()
    output = restore_channels(restorer, lq[None])[0]
    seconds = time.perf_counter() - start
    images = {"input": lq, "output": output, "gt": sample["gt"]}
    scores = scores_of({name: tensor2img([image]) for name, image in images.items()}, metrics)
    row = dict(zip(COLUMNS, (*job.key, *map(str, lq.shape[-2:]), f"{seconds:.3f}"), strict=False))
    kinds = ("output",) if clean else ("input", "output")  # no figure tells that nothing is wrong
    for metric, values in scores.items():
        row |= {f"{metric}_{kind}": f"{values[kind]:.5f}" for kind in kinds if kind in values}
    return row


def facts_of_run(weights: Path, restorer: Restorer) -> dict[str, Any]:
    """Return what holds for all rows of a table."""
    network = restorer.networks[0]
    device = restorer.device.type
    threads = torch.get_num_threads()
    kinds = {"cpu": f"{threads} thread{'s' * (threads > 1)} of a CPU"}
    return {
        "weights": printable(weights.stem),
        "sha256": hashlib.sha256(weights.read_bytes()).hexdigest(),
        "network": type(network).__name__,
        "parameters": sum(p.numel() for p in network.parameters()),
        "codec": codec_name(),
        "torch": torch.__version__,
        "device": kinds.get(device) or torch.cuda.get_device_name(restorer.device),
        "precision": restorer.precision,
        "tile": restorer.options.tile or "whole images",
    }
