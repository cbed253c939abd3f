"""All measurements on a GPU in one run, for a GPU that is lent for minutes.

    python benchmarks/gpu.py datasets/train gpu_results
    python benchmarks/gpu.py FOLDER OUT --small --device cpu    # checks the script itself

Each measurement has a limit of time; the short ones come first. What it prints goes to a file in
``OUT``. One that fails or reaches its limit keeps what it printed, and the others go on.
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent


def measurements(options: argparse.Namespace) -> dict[str, tuple[int, list[str]]]:
    """Return the limit in seconds and the command of each."""
    folder, device = str(options.folder), ["--device", options.device]
    small = ["--small"] * options.small
    few = ["--files", "2", "--size", "400x300"] * options.small
    short = ["--steps", "2", "--long", "200", "--short", "60", "--workers", "1"] * options.small
    promptcir = ["promptcir_gpu.py", *device, *small]
    training = ["training_gpu.py", folder, *device, *small, *short]
    return {
        "promptcir_tiles": (60, [*promptcir, "--parts", "tiles", "--forms", "ours", "graph"]),
        "promptcir_steps": (60, [*promptcir, "--parts", "steps", "--forms", "naive", "ours"]),
        "restore": (120, ["restore_gpu.py", folder, *device, *few]),
        "training_modes": (150, [*training, "--parts", "modes", "resume"]),
        "training_speed": (120, [*training, "--parts", "speed"]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("folder", type=Path, help="clean photographs")
    parser.add_argument("out", type=Path)
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--small", action="store_true", help="small networks and pictures")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    for name, (limit, words) in measurements(options).items():
        start = time.perf_counter()
        path = options.out / f"{name}.txt"
        with path.open("w") as file:
            try:
                done = subprocess.run(
                    [sys.executable, "-u", HERE / words[0], *words[1:]],
                    stdout=file,
                    stderr=subprocess.STDOUT,
                    timeout=limit,
                )
                end = f"exit status {done.returncode}"
            except subprocess.TimeoutExpired:
                end = f"stopped at its limit of {limit} s"
        print(
            f"== {name}: {end}, {time.perf_counter() - start:.0f} s\n{path.read_text()}", flush=True
        )


if __name__ == "__main__":
    main()
