"""The flags of every subcommand. Nothing here imports torch, so ``--help`` is fast."""

import argparse
import os
import textwrap
from pathlib import Path
from typing import Any, get_args

from cir_cli.flag_types import at_least, image_size, number, shard, share, tile, tiles, weighted
from cir_data.images.formats import SUFFIXES
from cir_diffusion.settings import Alignment
from cir_model.restoring.settings import CELL, FINE_QUALITY, MAX_PIXELS, Ensemble

CHECKPOINT_SUFFIXES = (".safetensors", ".pth", ".onnx")
"""Suffixes of the files that ``basicsr convert`` writes."""

EMBEDDED_QUALITIES = (10, 30, 50, 70, 90)
"""JPEG qualities that ``basicsr embed`` shows by default."""


def train() -> argparse.ArgumentParser:
    """Return the flags of ``basicsr train``: those of BasicSR's ``train.py``."""
    return _of_basicsr(
        "basicsr train", "Train a network. Runs are written to experiments/NAME below this folder."
    )


def test() -> argparse.ArgumentParser:
    """Return the flags of ``basicsr test``: those of BasicSR's ``test.py``."""
    return _of_basicsr(
        "basicsr test",
        "Measure a network on test sets. Results are written to results/NAME below this folder.",
    )


def restore() -> argparse.ArgumentParser:
    """Return the flags of ``basicsr restore``."""
    parser = argparse.ArgumentParser(
        "basicsr restore",
        description="Restore compressed images. Metadata, alpha, grey and 16 bits are kept; the"
        " image is turned upright; CMYK becomes sRGB.",
    )
    parser.add_argument(
        "inputs",
        nargs="+",
        metavar="INPUT",
        help="file, folder (with its subfolders), pattern, or - for standard input",
    )
    parser.add_argument(
        "-o",
        "--output",
        required=True,
        help="folder; for a single image also a file, or - for standard output",
    )
    parser.add_argument(
        "-m",
        "--model",
        action="append",
        type=weighted,
        metavar="WEIGHTS",
        help="checkpoint, or the name of bundled weights; its network is recognised; give several"
        " to average their outputs, equally or as in -m A.pth=0.8 -m B.pth=0.2; default:"
        " fbcnn_xs_x1",
    )
    parser.add_argument(
        "--best",
        action="store_true",
        help="use the bundled weights fbcnn_s_x1: better, but about six times slower",
    )
    _add_file_flags(parser.add_argument_group("files"))
    _add_network_flags(parser.add_argument_group("networks"))
    group = parser.add_argument_group(
        "CODiff", "a diffusion model, which invents detail: not for documents, text or evidence"
    )
    _add_base_flags(group)
    group.add_argument(
        "--align",
        choices=get_args(Alignment),
        help="how the result gets the colours of the input: mean and deviation of each channel"
        " (adain), or low frequencies (wavelet); default: adain",
    )
    group.add_argument(
        "--seed",
        type=number(0, 2**63 - 1),
        metavar="N",
        help="sample the latent by this seed, for another result; default: take its mean",
    )
    return parser


def page() -> argparse.ArgumentParser:
    """Return the flags of ``basicsr page``."""
    parser = argparse.ArgumentParser(
        "basicsr page",
        description="Open a local page to restore images, and see them before and after. Nothing"
        " leaves this machine; Ctrl-C ends it and deletes its files.",
    )
    parser.add_argument(
        "--port",
        type=number(1, 65535),
        help="port on 127.0.0.1; default: the first free one from 7860 on",
    )
    parser.add_argument(
        "--no-browser",
        dest="browser",
        action="store_false",
        help="print the address, but do not open it in the browser",
    )
    return parser


def convert() -> argparse.ArgumentParser:
    """Return the flags of ``basicsr convert``."""
    parser = argparse.ArgumentParser(
        "basicsr convert", description="Write a checkpoint as safetensors, .pth or ONNX."
    )
    *others, last = CHECKPOINT_SUFFIXES
    add = parser.add_argument
    add(
        "files",
        nargs="+",
        metavar="file",
        type=Path,
        help="a checkpoint; all files of a network that is published in several (DAIR)",
    )
    add(
        "-o",
        "--output",
        type=Path,
        required=True,
        help=f"file to write; its suffix, {', '.join(others)} or {last}, selects the format",
    )
    add("--key", help="key of the state dict, if the file holds several")
    add(
        "--network",
        metavar="YAML",
        help="network, if it cannot be recognised, or arguments that the file does not tell:"
        " '{type: HAT, conv_scale: 0.02}', or the options file of the training",
    )
    add("--half", action="store_true", help="store float16, which halves the size")
    _add_base_flags(parser.add_argument_group("CODiff", "codiff.pkl becomes one whole file"))
    add(
        "--size",
        type=image_size,
        metavar="HxW",
        help="export ONNX for this image size only, as most networks require",
    )
    add("--overwrite", action="store_true", help="replace an existing output")
    return parser


def models() -> argparse.ArgumentParser:
    """Return the flags of ``basicsr models``."""
    parser = argparse.ArgumentParser(
        "basicsr models", description="List all networks, or show what a checkpoint holds."
    )
    add = parser.add_argument
    add("file", nargs="?", type=Path, help="a checkpoint; default: list all networks")
    add("--key", help="key of the state dict, if the file holds several")
    add("--json", action="store_true", help="print JSON instead")
    add("--markdown", action="store_true", help="print the table of networks of docs/networks.md")
    return parser


def prepare() -> argparse.ArgumentParser:
    """Return the flags of ``basicsr prepare``."""
    from cir_data.prepare.known_datasets import KNOWN_DATASETS

    described = "".join(
        f"{name}:\n{textwrap.indent(data_set.describe(), '  ')}\n"
        for name, data_set in KNOWN_DATASETS.items()
    )
    parser = argparse.ArgumentParser(
        "basicsr prepare",
        description="Turn folders of images into an LMDB, a folder of sub-images or a list.",
        epilog=_PREPARE_EPILOG + textwrap.indent(described, "  "),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("input", nargs="*", help="folders, searched with their subfolders, or LMDBs")
    add("-o", "--output", type=Path, metavar="OUT", help="what to make, see below")
    add(
        "--recipe",
        choices=KNOWN_DATASETS,
        metavar="NAME",
        help=f"one of {', '.join(KNOWN_DATASETS)}",
    )
    add(
        "--datasets",
        type=Path,
        default=Path("datasets"),
        metavar="FOLDER",
        help="folder in which recipes look and write (default: %(default)s)",
    )
    add(
        "--store",
        choices=("png", "raw"),
        default="png",
        help="raw: uncompressed pixels for fast random crops; about twice as large as png, and not"
        " for BasicSR's own data sets (default: %(default)s)",
    )
    add("--size", type=at_least(1), metavar="N", help="cut sub-images of N x N pixels")
    add(
        "--step",
        type=at_least(1),
        metavar="N",
        help="stride of sub-images; default: size / 2",
    )
    add(
        "--threshold",
        type=at_least(0),
        default=0,
        metavar="N",
        help="drop a border strip of at most N pixels (default: %(default)s)",
    )
    add(
        "--min-jpeg-quality",
        type=number(1, 100),
        metavar="Q",
        help="leave out JPEGs of a lower quality than Q, by their quantisation tables",
    )
    add("--remove-suffix", default="", metavar="S", help="end of names to remove, such as x4")
    add(
        "--workers",
        type=at_least(1),
        default=_cores(),
        metavar="N",
        help="processes (default: %(default)s)",
    )
    add(
        "--overwrite",
        action="store_true",
        help="replace an earlier store, or discard an interrupted run with other settings",
    )
    return parser


def results() -> argparse.ArgumentParser:
    """Return the flags of ``basicsr results``."""
    parser = argparse.ArgumentParser(
        "basicsr results",
        description="Measure a checkpoint on the papers' test sets and write the results page.",
    )
    add = parser.add_argument
    add("-m", "--model", type=Path, metavar="WEIGHTS", help="default: the bundled weights")
    add(
        "-o",
        "--output",
        type=Path,
        metavar="FOLDER",
        help="folder of NAME.csv, which later calls complete; default: docs/results/NAME",
    )
    add(
        "--data",
        type=Path,
        default=Path("datasets"),
        metavar="FOLDER",
        help="folder with LIVE1, Classic5, Set14 and train; missing ones are left out; default:"
        " datasets",
    )
    add(
        "--every",
        type=number(1, 1000),
        default=1,
        metavar="N",
        help="at qualities other than 10, 20, 30 and 40, use every N-th image; default: 1",
    )
    add(
        "--shard",
        type=shard,
        metavar="I/N",
        help="measure the I-th of N parts and write no page; run once without it at the end",
    )
    add("--tile", type=tile, default=0, help="tile size in pixels; default: whole images")
    add("--page", type=Path, metavar="FILE.md", help="default: RESULTS.md in the folder")
    add("--page-only", action="store_true", help="write the page from the stored figures")
    add(
        "--fill",
        type=Path,
        action="append",
        default=[],
        metavar="FILE.md",
        help="also write the main table between <!-- results --> and <!-- end --> of this file",
    )
    return parser


def options() -> argparse.ArgumentParser:
    """Return the flags of ``basicsr options``."""
    parser = argparse.ArgumentParser(
        "basicsr options", description="Print the reference of all keys of an options file."
    )
    parser.add_argument("--schema", action="store_true", help="print the JSON schema instead")
    return parser


def plot() -> argparse.ArgumentParser:
    """Return the flags of ``basicsr plot``."""
    parser = argparse.ArgumentParser(
        "basicsr plot", description="Draw the curves of a training run as one PNG."
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="experiments/NAME, or NAME")
    parser.add_argument("-o", "--output", type=Path, help="default: RUN/curves.png")
    return parser


def embed() -> argparse.ArgumentParser:
    """Return the flags of ``basicsr embed``."""
    parser = argparse.ArgumentParser(
        "basicsr embed", description="Plot CaVE's embeddings of images by JPEG quality."
    )
    add = parser.add_argument
    add("images", nargs="+", metavar="IMAGE", help="lossless images: files, folders or patterns")
    add("-m", "--model", type=Path, required=True, metavar="WEIGHTS", help="checkpoint of CaVE")
    add("-o", "--output", type=Path, required=True, help="file that ends in .png, .svg or .pdf")
    add(
        "--qualities",
        nargs="+",
        type=number(1, 100),
        default=EMBEDDED_QUALITIES,
        metavar="Q",
        help=f"default: {' '.join(map(str, EMBEDDED_QUALITIES))}",
    )
    add("--method", choices=("pca", "tsne"), default="pca", help="default: %(default)s")
    return parser


def demo() -> argparse.ArgumentParser:
    """Return the flags of ``basicsr demo``."""
    parser = argparse.ArgumentParser(
        "basicsr demo",
        description="Restore photographs that scikit-image ships, then train and test a small"
        " PromptCIR.",
    )
    parser.add_argument("--folder", type=Path, default=Path("demo"), help="default: %(default)s")
    parser.add_argument(
        "--seconds", type=float, default=110, help="training time (default: %(default)s)"
    )
    return parser


_PREPARE_EPILOG = """\
The suffix of OUT selects what is made:
  OUT.lmdb   an LMDB: dataroot_gt: OUT.lmdb, for the data sets of this package and (except for raw
             pixels) for BasicSR's, with io_backend: {type: lmdb}
  OUT.txt    a meta_info_file, with a line `name (height,width,channels)` for each image
  OUT        a folder of PNG files, with OUT_meta_info.txt beside it

Run the same command again to resume an interrupted run.

recipes (--recipe NAME expects the folders below --datasets, and checks them):
"""


def _of_basicsr(name: str, description: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(name, description=description)
    add = parser.add_argument
    add("-opt", required=True, metavar="FILE.yml", help="options file: a path, or a shipped name")
    add("--launcher", choices=("none", "pytorch", "slurm"), default="none", help="job launcher")
    add("--auto_resume", action="store_true", help="resume from the last training state")
    add("--debug", action="store_true", help="validate and log every few iterations")
    add("--local_rank", type=int, default=0, help="set by torch.distributed.launch")
    add("--force_yml", nargs="+", metavar="KEY:KEY=VALUE", help="change values of the options")
    return parser


def _add_file_flags(group: Any) -> None:
    group.add_argument(
        "--format", choices=[*SUFFIXES, "same"], default="png", help="default: %(default)s"
    )
    group.add_argument(
        "--quality",
        type=number(1, 100),
        default=95,
        help="quality of written JPEG (4:4:4) and WebP (100: lossless); default: %(default)s",
    )
    group.add_argument(
        "--bits",
        type=int,
        choices=(8, 16),
        help="bits per sample of PNG and TIFF; default: as the input",
    )
    group.add_argument("--overwrite", action="store_true", help="overwrite existing output")
    group.add_argument(
        "--force", action="store_true", help="also restore lossless files and JPEGs of high quality"
    )
    group.add_argument(
        "--fine-quality",
        type=number(1, 101),
        default=FINE_QUALITY,
        metavar="Q",
        help="copy JPEGs of this quality and above unchanged; default: %(default)s",
    )
    group.add_argument(
        "--max-pixels",
        type=number(1, 2**40),
        default=MAX_PIXELS,
        metavar="N",
        help="refuse larger images; default: %(default)s",
    )
    group.add_argument("--strict", action="store_true", help="refuse truncated and damaged files")
    group.add_argument(
        "--compare", type=Path, metavar="FOLDER", help="write strips of before, after, difference"
    )
    group.add_argument(
        "--report", type=Path, metavar="FILE.html", help="write a page with a slider for each pair"
    )
    group.add_argument(
        "--shard", type=shard, metavar="I/N", help="restore the I-th of N parts; set by torchrun"
    )


def _add_network_flags(group: Any) -> None:
    group.add_argument(
        "--tile",
        type=tiles,
        default="auto",
        help="tile size; 0: whole images; several, such as 288,320,352: restore with each and"
        " average; default: by memory",
    )
    group.add_argument(
        "--overlap", type=number(0, 2**31), help="tile overlap in pixels; default: by network"
    )
    group.add_argument(
        "--self-ensemble",
        choices=get_args(Ensemble),
        default="none",
        help="average over flips and rotations; default: %(default)s",
    )
    group.add_argument(
        "--grid",
        choices=("auto", "none"),
        default="auto",
        help="none: do not put JPEG's blocks at the corner; default: where the pixels show blocks",
    )
    group.add_argument(
        "--precision",
        choices=("auto", "fp32", "bf16", "fp16"),
        default="auto",
        help="default: bf16 where the device computes it fast, fp16 for CODiff on a GPU, else fp32",
    )
    group.add_argument(
        "--strength",
        type=share,
        metavar="S",
        help="0 to 1; of FBCNN and others that take a quality: how much they restore, by default as"
        " the JPEG quality asks for; of CODiff: its share in the mean of result and input, by"
        " default 1",
    )
    group.add_argument(
        "--consistency",
        action=argparse.BooleanOptionalAction,
        help="correct the result of a JPEG by the data of the file, its DCT coefficients; default:"
        " yes, but not for CODiff, where it bounds what may be invented",
    )
    group.add_argument(
        "--cell",
        type=share,
        metavar="C",
        help="how far a coefficient may lie from the one in the JPEG file, in quantisation steps;"
        f" below 0.5 the original may lie farther; default: {CELL}",
    )
    group.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, ...")
    group.add_argument("--compile", action="store_true", help="compile the networks first")
    group.add_argument("--threads", type=number(1, 1024), help="CPU threads")


def _add_base_flags(group: Any) -> None:
    group.add_argument(
        "--base",
        type=Path,
        metavar="FOLDER",
        help="stable-diffusion-2-1-base in diffusers' layout, which codiff.pkl changes",
    )
    group.add_argument(
        "--cave",
        type=Path,
        metavar="FILE",
        help="checkpoint of CaVE; default: cave.pth beside codiff.pkl",
    )


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
