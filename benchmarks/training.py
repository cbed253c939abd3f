"""PromptCIR against PromptIR of equal size: same steps, same data, same test.

    python benchmarks/training.py datasets/train -o FOLDER                       # trains, tables
    python benchmarks/training.py datasets/train -o OTHER --networks PromptIR --steps 1500

Both train by their recipes, scaled down by the overrides below. Each run is ``basicsr train`` in a
separate process and ends with a validation on held-out photographs. Finished runs in the folder are
not repeated, interrupted ones are resumed. The cost of a step is measured at the end; the networks
take turns, so that other load on the machine slows both equally.
"""

import argparse
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
import yaml
from networks import seconds
from torch import nn

import cir_arch
from cir_cli.options_files import find
from cir_model.measuring.validation_files import read_means

QUALITIES = (10, 20, 30, 40)
"""JPEG qualities of the test. The recipes train on 10 to 70 in steps of 10."""

CROP, BATCH = 64, 4

SIZES: dict[str, Any] = {
    "dim": 8,
    "num_refinement_blocks": 1,
    "heads": [1, 2, 2, 4],
    "ffn_expansion": 2.0,
    "prompt_dims": [8, 16, 32],
    "zero_last": True,
}
"""Arguments of both networks."""

NETWORKS: dict[str, tuple[str, dict[str, Any]]] = {
    "PromptCIR": (
        "promptcir_x1.yml",
        {
            "num_blocks": [1, 1, 2, 3],
            "window_size": 8,
            "compress_ratio": 2,
            "squeeze_factor": 4,
            "conv_scale": 1.0,  # with the paper's 0.01 these convolutions learn late
        },
    ),
    # prompts as large as the features make up for the parameters of the missing block
    "PromptIR": ("promptir_x1.yml", {"num_blocks": [1, 1, 2, 2], "prompt_sizes": [32, 16, 8]}),
}
"""By name: the recipe and further arguments."""


def recipe(name: str) -> dict[str, Any]:
    options: dict[str, Any] = yaml.safe_load(find(name).read_text(encoding="utf-8"))
    return options


def network_options(name: str) -> dict[str, Any]:
    file, sizes = NETWORKS[name]
    network: dict[str, Any] = recipe(file)["network_g"]
    return network | SIZES | sizes


def photographs(images: Path, part: str) -> dict[str, str]:
    """Return the keys of a data set for the images of ``train`` or ``val``."""
    listed = find("promptcir_s_x1.yml").parent / "meta_info" / f"photographs_{part}.txt"
    return {"dataroot_gt": str(images.resolve()), "meta_info_file": str(listed.resolve())}


def held_out(images: Path, folder: Path) -> dict[str, str]:
    """Return the keys for every second photograph of ``val``, since validation costs time."""
    section = photographs(images, "val")
    lines = Path(section["meta_info_file"]).read_text(encoding="utf-8").splitlines()
    listed = folder.resolve() / "held_out.txt"
    listed.write_text("\n".join(lines[::2]) + "\n", encoding="utf-8")
    return section | {"meta_info_file": str(listed)}


def training_options(
    name: str, seed: int, steps: int, images: Path, folder: Path
) -> dict[str, Any]:
    """Return the recipe, changed for a short training on one core."""
    options = recipe(NETWORKS[name][0])
    options |= {"name": f"{name}_{seed}", "manual_seed": seed, "num_gpu": 0}
    options["network_g"] = network_options(name)
    training = options["datasets"]["train"] | photographs(images, "train")
    training |= {"name": "photographs", "gt_size": CROP, "batch_size_per_gpu": BATCH}
    training |= {"num_worker_per_gpu": 1}
    validation = {key: training[key] for key in ("type", "color")} | held_out(images, folder)
    options["datasets"] = {"train": training} | {
        f"val_{quality}": {"name": f"q{quality}", "quality": quality, **validation}
        for quality in QUALITIES
    }
    options["train"] |= {"total_iter": steps, "ema_decay": 0.99, "warmup_iter": 50}
    options["train"] |= {"grad_clip": 0.5, "no_decay": True}
    options["train"]["optim_g"]["lr"] = 1.5e-3
    options["train"]["scheduler"]["periods"] = [steps]
    options["val"] |= {"val_freq": steps, "pbar": False}
    options["val"]["metrics"] = {"psnr": options["val"]["metrics"]["psnr"]}
    options["logger"] = {"print_freq": 10, "save_checkpoint_freq": 100, "use_tb_logger": False}
    options["logger"]["keep_checkpoints"] = 1
    return options


def train(options: dict[str, Any], folder: Path) -> Path:
    """Run ``basicsr train`` in a folder and return the folder of the run."""
    file = folder / f"{options['name']}.yml"
    file.write_text(yaml.safe_dump(options, sort_keys=False), encoding="utf-8")
    command = [sys.executable, "-m", "cir_cli", "train", "-opt", file.name, "--auto_resume"]
    with (folder / f"{options['name']}.log").open("w", encoding="utf-8") as log:
        subprocess.run(command, cwd=folder, check=True, stdout=log, stderr=subprocess.STDOUT)
    return folder / "experiments" / options["name"]


def build(name: str) -> nn.Module:
    torch.manual_seed(0)
    options = network_options(name)
    network: nn.Module = getattr(cir_arch, options.pop("type"))(**options)
    return network


def used_parameters(network: nn.Module) -> int:
    """Count the parameters that the output depends on; PromptIR has unused ones."""
    unused = getattr(network, "unused_modules", ())
    named = network.named_parameters()
    return sum(p.numel() for key, p in named if key.partition(".")[0] not in unused)


def psnr(run: Path) -> list[dict[str, float]]:
    """Return input, output and gain of a run by quality; fewer if it is unfinished."""
    return [means["psnr"] for means in read_means(run).values()]


def quality_table(runs: dict[tuple[str, int], Path]) -> str:
    """Return a row for each run, and for each seed the difference between the networks."""
    heads = " | ".join(f"quality {quality}" for quality in QUALITIES)
    lines = [f"| PSNR, dB | seed | {heads} |", "|---|---|" + "---|" * len(QUALITIES)]
    found = {run: psnr(path) for run, path in runs.items()}
    inputs = " | ".join(f"{score['input']:.3f}" for score in next(iter(found.values())))
    lines.append(f"| the JPEG | | {inputs} |")
    for (name, seed), scores in found.items():
        cells = " | ".join(f"{s['output']:.3f} ({s['gain']:+.3f})" for s in scores)
        lines.append(f"| {name} | {seed} | {cells} |")
    names = list(dict.fromkeys(name for name, _ in found))
    for seed in dict.fromkeys(seed for _, seed in found) if len(names) == 2 else ():
        pairs = zip(*(found[name, seed] for name in names), strict=True)
        cells = " | ".join(f"{a['output'] - b['output']:+.3f}" for a, b in pairs)
        lines.append(f"| {' minus '.join(names)} | {seed} | {cells} |")
    return "\n".join(lines)


def cost_table(names: list[str], turns: int) -> str:
    """Return the table of the time per step of each network."""
    networks = {name: build(name) for name in names}
    x = torch.rand(BATCH, 3, CROP, CROP, generator=torch.Generator().manual_seed(0))
    forward, step = (seconds(networks, t, x, {}, turns) for t in ("forward fp32", "training fp32"))
    lines = ["| | parameters | forward, s | forward and backward, s |", "|---|---|---|---|"]
    for name, network in networks.items():
        cells = f"{used_parameters(network):,} | {forward[name]:.3f} | {step[name]:.3f}"
        lines.append(f"| {name} | {cells} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("images", type=Path, help="folder or LMDB of the photographs listed")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--seeds", type=int, default=2, help="number of seeds (default: 2)")
    parser.add_argument(
        "--turns", type=int, default=7, help="repetitions for timing a step (default: 7)"
    )
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    runs: dict[tuple[str, int], Path] = {}
    for seed in range(options.seeds):
        for name in options.networks:
            run = options.output / "experiments" / f"{name}_{seed}"
            if len(psnr(run)) < len(QUALITIES):
                made = training_options(name, seed, options.steps, options.images, options.output)
                train(made, options.output)
            runs[name, seed] = run
    print(f"{options.steps} steps, crops of {CROP}, batch {BATCH}, torch {torch.__version__}\n")
    print(quality_table(runs))
    print("\n" + cost_table(options.networks, options.turns))


if __name__ == "__main__":
    main()
