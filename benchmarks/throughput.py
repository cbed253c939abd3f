"""Training steps per second of the small PromptCIR by option, and the share of time without data.

    python benchmarks/throughput.py datasets/train -o FOLDER              # adds a round to FOLDER
    python benchmarks/throughput.py datasets/train -o FOLDER --rounds 2 --options plain amp=bf16

Each measurement is a short ``basicsr train`` of ``options/promptcir_s_x1.yml`` in a separate
process with two data loader workers; the figures come from the trainer's log. A round runs every
option once, so that other load on the machine slows all equally. The table has the medians over all
rounds in the folder; ratios are to the plain run of the same round.
"""

import argparse
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from training import photographs, recipe, train

from cir_host.progress import RECORDS, read_records

OPTIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "plain": ("train", {}),
    "amp=bf16": ("train", {"amp": "bf16"}),
    "channels_last": ("train", {"channels_last": True}),
    "use_checkpoint": ("network_g", {"use_checkpoint": True}),
    "accum_iter=2": ("train", {"accum_iter": 2}),
    "compile": ("train", {"compile": True}),
}
"""By name: a section of the options file, and the values to set there."""

DEFAULT = [name for name in OPTIONS if name not in ("amp=bf16", "compile")]
"""On a CPU: few have bfloat16 instructions, and compiling takes minutes in every run."""

WARM_UP, COUNTED = 2, 6
"""Steps. The first ones wait for the workers to start."""


@dataclass(frozen=True)
class Figures:
    """Means over the counted steps of a run."""

    seconds: float
    """Per step, waiting included."""
    samples: float
    """Per second."""
    waiting: float
    """Seconds per step of waiting for data."""
    memory: float
    """Peak memory of the process in GB."""


def options_with(option: str, number: int, workers: int, images: Path) -> dict[str, Any]:
    options = recipe("promptcir_s_x1.yml")
    options |= {"name": f"{option}_{number}", "num_gpu": 0}
    data = options["datasets"]["train"]
    data |= {"num_worker_per_gpu": workers, **photographs(images, "train")}
    steps = WARM_UP + COUNTED
    options["train"].pop("progressive")
    options["train"] |= {"total_iter": steps, "warmup_iter": -1}
    options["train"]["scheduler"]["periods"] = [steps]
    options["logger"] |= {"print_freq": WARM_UP, "save_checkpoint_freq": 10 * steps}
    section, values = OPTIONS[option]
    options[section] |= values
    return options


def figures(run: Path) -> Figures:
    """Read the trainer's log, whose times are means since the start."""
    records = {record["iter"]: record for record in read_records(run / RECORDS)}
    last, first = records[WARM_UP + COUNTED], records[WARM_UP]

    def counted(key: str) -> float:
        total = last["iter"] * last[key] - first["iter"] * first[key]
        return float(total / COUNTED)

    step, waiting = counted("step_time"), counted("data_time")
    batch = last["samples_per_second"] / last["iterations_per_second"]
    return Figures(step + waiting, batch / (step + waiting), waiting, last["memory_gb"])


def table(runs: dict[str, dict[int, Path]]) -> str:
    """Return a row per option."""
    found = {option: {i: figures(run) for i, run in of.items()} for option, of in runs.items()}
    lines = [
        "| | steps/s | samples/s | samples/s of plain | waiting for data | peak memory, GB"
        " | rounds |",
        "|---|---|---|---|---|---|---|",
    ]
    for option, rounds in found.items():
        values = list(rounds.values())
        ratios = [
            f.samples / found["plain"][i].samples for i, f in rounds.items() if i in found["plain"]
        ]
        share = sum(f.waiting for f in values) / sum(f.seconds for f in values)
        cells = (
            f"{statistics.median(1 / f.seconds for f in values):.2f}",
            f"{statistics.median(f.samples for f in values):.2f}",
            f"{statistics.median(ratios):.2f}",
            f"{100 * share:.1f} %",
            f"{max(f.memory for f in values):.2f}",
            str(len(values)),
        )
        lines.append(f"| {option} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("images", type=Path, help="folder or LMDB of the photographs listed")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--options", nargs="+", choices=OPTIONS, default=DEFAULT)
    parser.add_argument("--rounds", type=int, default=1, help="rounds to add (default: 1)")
    parser.add_argument("--workers", type=int, default=2, help="data loader workers (default: 2)")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    done = options.output / "experiments"
    first = len(list(done.glob("plain_*")))
    for number in range(first, first + options.rounds):
        for option in options.options:
            train(options_with(option, number, options.workers, options.images), options.output)
    runs = {
        option: {int(run.name.rpartition("_")[2]): run for run in done.glob(f"{option}_*")}
        for option in OPTIONS
    }
    print(
        f"torch {torch.__version__}, {torch.get_num_threads()} threads, {options.workers} workers,"
        f" steps of {COUNTED} counted after {WARM_UP}\n"
    )
    print(table({option: of for option, of in runs.items() if of}))


if __name__ == "__main__":
    main()
