"""``basicsr restore``: pictures made better, with everything kept that their files hold."""

import argparse
from pathlib import Path
from typing import Any, get_args

from cir_cli.flags import number, shard, tile
from cir_data.images.formats import SUFFIXES
from cir_model.restoring.options import FINE_QUALITY, MAX_PIXELS, Ensemble


def run(arguments: list[str]) -> int:
    """Restore files, folders or a stream.

    Returns:
        0, or 1 if a file failed; the others are done then.

    Raises:
        UserError: Nothing can be done as asked.
    """
    flags = _parser().parse_args(arguments)
    from cir_cli.restore_batch import restore_batch  # takes seconds, which --help need not

    return restore_batch(flags)


def _strength(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 0 to 1")
    return value


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "basicsr restore",
        description="Restore compressed pictures. Metadata, alpha, grey and 16 bits are kept; the"
        " picture is turned upright; CMYK becomes sRGB.",
    )
    parser.add_argument(
        "inputs", nargs="+", metavar="INPUT", help="file, folder (with those below), pattern, or -"
    )
    parser.add_argument(
        "-o", "--output", required=True, help="folder; or a file or -, for a single picture"
    )
    parser.add_argument(
        "-m",
        "--model",
        action="append",
        type=Path,
        metavar="WEIGHTS",
        help="checkpoint, its network is recognised; several times: their outputs are averaged;"
        " default: the weights of the package",
    )
    _add_file_flags(parser.add_argument_group("files"))
    _add_network_flags(parser.add_argument_group("networks"))
    return parser


def _add_file_flags(group: Any) -> None:
    group.add_argument(
        "--format", choices=[*SUFFIXES, "same"], default="png", help="default: %(default)s"
    )
    group.add_argument(
        "--quality",
        type=number(1, 100),
        default=95,
        help="of JPEG (4:4:4) and WebP (100: without loss); default: %(default)s",
    )
    group.add_argument(
        "--bits", type=int, choices=(8, 16), help="of png and tiff; default: as the input"
    )
    group.add_argument("--overwrite", action="store_true", help="do what is there already anew")
    group.add_argument(
        "--force", action="store_true", help="restore files that seem to need it not, too"
    )
    group.add_argument(
        "--fine-quality",
        type=number(1, 101),
        default=FINE_QUALITY,
        metavar="Q",
        help="copy JPEGs from this quality on, by their tables; default: %(default)s",
    )
    group.add_argument(
        "--max-pixels",
        type=number(1, 2**40),
        default=MAX_PIXELS,
        metavar="N",
        help="refuse larger pictures; default: %(default)s",
    )
    group.add_argument("--strict", action="store_true", help="refuse truncated files")
    group.add_argument(
        "--compare", type=Path, metavar="FOLDER", help="write strips of before, after, difference"
    )
    group.add_argument(
        "--report", type=Path, metavar="FILE.html", help="write a page with a slider for each pair"
    )
    group.add_argument(
        "--shard", type=shard, metavar="I/N", help="do the I-th of N parts; torchrun sets it"
    )


def _add_network_flags(group: Any) -> None:
    group.add_argument(
        "--tile", type=tile, default="auto", help="pixels; 0: whole; default: by memory"
    )
    group.add_argument("--overlap", type=number(0, 2**31), help="of tiles; default: by network")
    group.add_argument("--self-ensemble", choices=get_args(Ensemble), default="none")
    group.add_argument("--precision", choices=("auto", "fp32", "bf16", "fp16"), default="auto")
    group.add_argument(
        "--strength",
        type=_strength,
        help="of FBCNN, 0 to 1; default: by the quality of the file, else of its pixels",
    )
    group.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, ...")
    group.add_argument("--compile", action="store_true", help="compile the networks first")
    group.add_argument("--threads", type=number(1, 1024), help="of the CPU")
