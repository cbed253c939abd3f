"""CaVE with dual and with explicit learning: same steps, same data, same held-out images.

    python benchmarks/training_cave.py datasets/train -o FOLDER           # minutes on one idle core
    python benchmarks/training_cave.py datasets/train -o FOLDER --table   # of what is trained

Both train by their recipes, scaled down by the overrides below. Each run is ``basicsr train`` in a
separate process and ends with the error of the predicted quality on held-out photographs, at
qualities seen in training and at 1 and 5, which are not. Finished runs in the folder are not
repeated, interrupted ones are resumed.
"""

import argparse
from pathlib import Path
from typing import Any

from training import photographs, recipe, train

from cir_model.measuring.validation_files import read_means

RECIPES = {"dual": "cave_x1.yml", "explicit": "cave_x1_explicit.yml"}
SEEN = (10, 20, 30, 40, 50, 60, 70, 80, 90)
UNSEEN = (1, 5)
TESTED = (*UNSEEN, 10, 30, 50, 70, 90)
SIZES = {"nc": [8, 16, 32, 64], "nb": 1, "quality_nc": 64, "strides": [2, 2, 2]}
CROP, BATCH = 64, 16
RESULTS = Path(__file__).parent / "results/training_cave.md"


def training_options(name: str, steps: int, images: Path) -> dict[str, Any]:
    """Return the recipe, changed for a short training on one core."""
    options = recipe(RECIPES[name])
    options |= {"name": f"cave_{name}", "manual_seed": 0, "num_gpu": 0}
    options["network_g"] |= SIZES
    training = options["datasets"]["train"] | photographs(images, "train")
    training |= {"name": "photographs", "quality": {"choices": list(SEEN)}}
    training |= {"gt_size": CROP, "batch_size_per_gpu": BATCH, "num_worker_per_gpu": 1}
    held_out = {"type": training["type"], "color": "rgb", **photographs(images, "val")}
    options["datasets"] = {"train": training} | {
        f"val_{quality}": {"name": f"q{quality}", "quality": quality, **held_out}
        for quality in TESTED
    }
    options["train"] |= {"total_iter": steps, "ema_decay": 0.9}
    options["train"]["optim_g"]["lr"] = 1e-3
    options["train"]["scheduler"] = {
        "type": "CosineAnnealingRestartLR",
        "periods": [steps],
        "restart_weights": [1],
    }
    options["val"] |= {"val_freq": steps, "pbar": False}
    options["val"]["metrics"] = {"qf_error": options["val"]["metrics"]["qf_error"]}
    options["logger"] = {"print_freq": 20, "save_checkpoint_freq": 100, "use_tb_logger": False}
    options["logger"]["keep_checkpoints"] = 1
    return options


def errors(folder: Path, name: str) -> dict[int, float]:
    """Return the mean error by quality; empty if the run has not ended."""
    means = read_means(folder / f"experiments/cave_{name}")
    return {q: means[f"q{q}"]["qf_error"]["output"] for q in TESTED} if means else {}


def table(folder: Path, steps: int) -> str:
    found = {name: row for name in RECIPES if (row := errors(folder, name))}
    heads = " | ".join(f"q = {q}" + (" (unseen)" if q in UNSEEN else "") for q in TESTED)
    # the error of always predicting the middle of the trained qualities
    middle = {quality: abs(quality - SEEN[len(SEEN) // 2]) for quality in TESTED}
    rows = [
        f"| {name} | " + " | ".join(f"{row[quality]:.1f}" for quality in TESTED) + " |"
        for name, row in (*found.items(), ("always 50", middle))
    ]
    return "\n".join(
        (
            f"Mean absolute error of the predicted quality, held-out photographs, {steps} steps of"
            f" {BATCH} crops of {CROP}x{CROP}, qualities {SEEN[0]} to {SEEN[-1]} by 10, one seed.",
            "",
            f"| learning | {heads} |",
            "|---|" + "---|" * len(TESTED),
            *rows,
        )
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("images", type=Path, help="folder or LMDB of lossless photographs")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--table", action="store_true", help="only print the table")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    for name in RECIPES:
        if not (options.table or errors(options.output, name)):
            train(training_options(name, options.steps, options.images), options.output)
    text = table(options.output, options.steps)
    command = f"python benchmarks/training_cave.py IMAGES -o FOLDER --steps {options.steps}"
    RESULTS.write_text(f"# CaVE: dual and explicit learning\n\n`{command}`\n\n{text}\n", "utf-8")
    print(text)


if __name__ == "__main__":
    main()
