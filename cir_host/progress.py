"""The log of a training: a line to read, scalars for TensorBoard, a file for plots."""

import json
import os
import sys
import time
from collections.abc import Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from basicsr.utils.logger import MessageLogger

RECORDS = "training.jsonl"
"""File in the run's folder with one JSON object for each line of the log."""


class TrainingLog(MessageLogger):
    """BasicSR's ``MessageLogger`` with the run's speed, and a file that ``basicsr plot`` reads.

    A resumed run appends to the file; lines of iterations that it repeats are removed first.

    Args:
        opt: The options, with ``data_plan`` and ``validations``; the latter gets the writer.
        start_iter: Iterations done before this start.
        tb_logger: TensorBoard's writer, or None.
    """

    def __init__(self, opt: Mapping[str, Any], start_iter: int = 0, tb_logger: Any = None) -> None:
        super().__init__(opt, start_iter, tb_logger)
        self.plan = opt["data_plan"]
        opt["validations"].tb_logger = tb_logger
        self.is_first = opt["rank"] == 0
        self.file = Path(opt["path"]["experiments_root"]) / RECORDS
        if self.is_first:
            kept = [r for r in read_records(self.file) if r["iter"] <= start_iter]
            self.file.write_text("".join(map(_line, kept)), encoding="utf-8")

    def __call__(self, log_vars: dict[str, Any]) -> None:
        """Log one iteration.

        Args:
            log_vars: ``iter``, ``lrs`` (one per group), ``time`` and ``data_time`` (seconds per
                iteration; ``time`` includes ``data_time``), then losses and other numbers.
        """
        if not self.is_first:
            return
        values = dict(log_vars)
        iteration, seconds, waiting = (
            values.pop("iter"),
            values.pop("time"),
            values.pop("data_time"),
        )
        rates = values.pop("lrs")
        values.pop("epoch")  # BasicSR counts the single stream as one epoch
        record = {
            "iter": iteration,
            "epoch": self.plan.epoch(iteration),
            **values,
            "lr": rates[0],
            "iterations_per_second": 1 / seconds,
            "samples_per_second": self.plan.stage(iteration).batch_size / seconds,
            "data_time": waiting,
            "step_time": seconds - waiting,
            "memory_gb": memory_gb(),
        }
        self.logger.info(self._message(record, rates, values))
        with self.file.open("a", encoding="utf-8") as file:
            file.write(_line(record))
        if self.tb_logger:
            for name, value in record.items():
                if name not in ("iter", "epoch"):
                    tag = f"losses/{name}" if name.startswith("l_") else name
                    self.tb_logger.add_scalar(tag, value, iteration)

    def _message(
        self, record: Mapping[str, Any], rates: list[float], values: Mapping[str, float]
    ) -> str:
        done, elapsed = record["iter"] - self.start_iter, time.time() - self.start_time
        left = timedelta(seconds=int(elapsed / done * (self.max_iters - record["iter"])))
        shown = ",".join(f"{rate:.3e}" for rate in dict.fromkeys(rates))
        share = record["data_time"] / (record["data_time"] + record["step_time"])
        numbers = " ".join(
            f"{name}: {value}" if isinstance(value, int) else f"{name}: {value:.4e}"
            for name, value in values.items()
        )
        return (
            f"[{self.exp_name[:5]}..][epoch:{record['epoch']:3d}, iter:{record['iter']:8,d},"
            f" lr:({shown})] [eta: {left}, {record['iterations_per_second']:.3g} it/s,"
            f" {record['samples_per_second']:.3g} samples/s, step {record['step_time']:.3f} s,"
            f" data {record['data_time']:.3f} s ({share:.0%}), {record['memory_gb']:.2f} GB]"
            f" {numbers}"
        )


def read_records(file: Path) -> Iterator[dict[str, Any]]:
    """Yield the records of a run; skip a line that a killed run left incomplete."""
    if not file.exists():
        return
    for line in file.read_text(encoding="utf-8").splitlines():
        try:
            yield json.loads(line)
        except json.JSONDecodeError:
            continue


def memory_gb() -> float:
    """Return the peak memory so far in GB: of the GPU if there is one, else of the process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 1e9
    if os.name != "posix":
        return float("nan")
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


def _line(record: Mapping[str, Any]) -> str:
    return json.dumps(record) + "\n"
