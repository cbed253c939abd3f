"""``basicsr restore``: pictures made better, with everything kept that their files hold."""

import argparse
import logging
import os
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from cir_arch import load_network
from cir_cli.flags import number, shard, tile
from cir_cli.restore_jobs import STANDARD_STREAM, Job, list_jobs
from cir_cli.restore_views import Report, write_comparison
from cir_data.picture import FileFacts, Picture, examine, read
from cir_data.picture_writing import SIXTEEN_BITS, SUFFIXES, Encoding, write_file
from cir_host.errors import UserError
from cir_model.inference import SYMMETRIES, InferenceOptions, Restorer
from cir_model.picture import as_tensor, restore_picture
from cir_model.pixel_quality import pixel_quality, quality_network
from cir_weights import path_of

FINE_QUALITY = 95
"""From this JPEG quality on a file is copied by default."""

MAX_PIXELS = 200_000_000
"""Larger pictures are refused by default, as a damaged header can claim any size."""


def run(arguments: list[str]) -> int:
    """Restore files, folders or a stream.

    Returns:
        0, or 1 if a file failed; the others are done then.

    Raises:
        UserError: Nothing can be done as asked.
    """
    options = _parser().parse_args(arguments)
    jobs = list_jobs(options.inputs, options.output, options.format)
    part, parts = options.shard or _shard_of_torchrun()
    if options.threads:
        torch.set_num_threads(options.threads)
    with _engine_messages():
        restorer = _restorer(options)
        batch = _Batch(restorer, options)
        return batch.run(jobs[part - 1 :: parts])


def default_weights() -> Path:
    """Return the weights that are used without ``-m``."""
    return path_of("promptcir_s_x1")


@dataclass
class _Batch:
    """The work of one process, and what came of it."""

    restorer: Restorer
    options: argparse.Namespace
    restored: int = 0
    copied: int = 0
    skipped: int = 0
    failed: int = 0
    pixels: int = 0
    report: Report | None = field(init=False)

    def __post_init__(self) -> None:
        self.report = Report(self.options.report) if self.options.report else None

    def run(self, jobs: Sequence[Job]) -> int:
        start = time.perf_counter()
        with tqdm(jobs, unit="image", disable=None if len(jobs) > 1 else True) as bar:
            for job in bar:
                self._do(job)
                speed = self.pixels / 1e6 / (time.perf_counter() - start)
                bar.set_postfix_str(f"{speed:.2f} MP/s")
        if self.report is not None:
            self.report.write()
        seconds = time.perf_counter() - start
        rate = f", {self.pixels / 1e6 / seconds:.2f} MP/s" if self.pixels else ""
        used = self.restorer.describe()
        _say(
            f"{self.restored} restored, {self.copied} copied, {self.skipped} skipped,"
            f" {self.failed} failed; {self.pixels / 1e6:.1f} MP in {seconds:.1f} s{rate}"
            + (f" ({used['inference']}, {used['precision']})" if self.restored else "")
        )
        return 1 if self.failed else 0

    def _do(self, job: Job) -> None:
        try:
            self._restore(job)
        except UserError as error:
            self.failed += 1
            _say(f"error: {error}")

    def _restore(self, job: Job) -> None:
        options = self.options
        if not options.overwrite and not job.streams:
            existing = next((p for p in (job.restored, job.copied) if p.exists()), None)
            if existing is not None:
                self.skipped += 1
                _say(f"{job.source}: skipped, {existing} is there (--overwrite does it anew)")
                return
        where = "standard input" if str(job.source) == STANDARD_STREAM else str(job.source)
        data = _read_bytes(job.source)
        facts = examine(data, where)
        if facts.pixels > options.max_pixels:
            raise UserError(
                f"{where}: {facts.width} x {facts.height} pixels are more than --max-pixels"
                f" {options.max_pixels}"
            )
        fine = _needs_nothing(facts, options.fine_quality)
        if fine and not options.force:
            _write(job.copied, data)
            self.copied += 1
            if facts.lossless:
                with suppress(UserError):  # it is copied as it is, also if it is damaged
                    told = self._quality(read(data, where), facts)[1]
                    fine += f", {told}" if told else ""
            _say(f"{where}: {fine}, copied (--force restores it)")
            return
        self._restore_data(job, where, data, facts)

    def _restore_data(self, job: Job, where: str, data: bytes, facts: FileFacts) -> None:
        options = self.options
        picture = read(data, where, strict=options.strict)
        for warning in picture.warnings:
            _say(f"warning: {where}: {warning}")
        bits = options.bits
        if bits is None and job.format not in SIXTEEN_BITS:
            bits = 8
        quality, told = self._quality(picture, facts)
        inputs = _inputs(options.strength, quality)
        try:
            restored = restore_picture(self.restorer, picture, bits, **inputs)
        except UserError as error:
            raise UserError(f"{where}: {error}") from error
        encoding = Encoding(job.format, options.quality)
        _write(job.restored, encoding.encode(restored, where))
        self.restored += 1
        self.pixels += facts.pixels
        _say(f"{where}: {told + ', ' if told else ''}restored to {job.restored}")
        if options.compare:
            strip = options.compare / job.copied.relative_to(_root(job, options.output))
            write_comparison(strip.with_name(strip.name + ".png"), picture, restored)
        if self.report is not None:
            self.report.add(where, told, picture, restored)

    def _quality(self, picture: Picture, facts: FileFacts) -> tuple[float | None, str]:
        """Return the JPEG quality by the file's tables, else by the pixels, and how it is told."""
        if facts.quality is not None:
            return facts.quality, f"JPEG quality {_told(facts)}"
        image = as_tensor(picture).to(self.restorer.device)
        estimate = pixel_quality(quality_network(self.restorer.device), image)
        if estimate is None:
            return None, ""
        return estimate, f"pixels of JPEG quality about {estimate:.0f}"


def _needs_nothing(facts: FileFacts, fine_quality: int) -> str | None:
    """Say why a file needs no restoring, None if it does."""
    if facts.lossless:
        return f"{facts.format} without loss"
    if facts.quality is not None and facts.quality >= fine_quality:
        return f"JPEG quality {_told(facts)}"
    return None


def _told(facts: FileFacts) -> str:
    return f"{facts.quality}" if facts.standard_tables else f"about {facts.quality}"


def _inputs(strength: float | None, quality: float | None) -> dict[str, Any]:
    """Return what networks take that restore by quality: FBCNN's is 1 - quality / 100."""
    if strength is not None:
        return {"quality": strength}
    return {} if quality is None else {"quality": 1 - quality / 100}


def _root(job: Job, output: str) -> Path:
    folder = Path(output)
    return folder if folder in job.copied.parents else job.copied.parent


def _read_bytes(source: Path) -> bytes:
    if str(source) == STANDARD_STREAM:
        return sys.stdin.buffer.read()
    try:
        return source.read_bytes()
    except OSError as error:
        raise UserError(f"{source}: {error.strerror}") from error


def _write(target: Path, data: bytes) -> None:
    if str(target) == STANDARD_STREAM:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
    else:
        write_file(target, data)


def _say(line: str) -> None:
    tqdm.write(line, file=sys.stderr)


class _engine_messages:  # noqa: N801 (a context manager, used like a function)
    """Shows what the engine logs, such as which tiles it takes, above the progress bar."""

    def __init__(self) -> None:
        self._logger = logging.getLogger("basicsr")
        self._handler = logging.Handler()
        self._handler.emit = lambda record: _say(record.getMessage())  # type: ignore[method-assign]

    def __enter__(self) -> None:
        self._level = self._logger.level
        self._logger.setLevel(logging.INFO)
        self._logger.addHandler(self._handler)

    def __exit__(self, *_: object) -> None:
        self._logger.removeHandler(self._handler)
        self._logger.setLevel(self._level)


def _restorer(options: argparse.Namespace) -> Restorer:
    paths = options.model or [default_weights()]
    device = _device(options.device)
    networks: list[nn.Module] = [load_network(path).to(device) for path in paths]
    how = InferenceOptions(
        tile=options.tile,
        overlap=options.overlap,
        self_ensemble=options.self_ensemble,
        precision=options.precision,
    )
    restorer = Restorer(networks, how, [str(path) for path in paths])
    if options.compile:
        restorer.compile()
    if options.strength is not None and "quality" not in restorer.extra_inputs:
        raise UserError("--strength: none of the networks takes one; FBCNN does")
    return restorer


def _device(name: str) -> torch.device:
    if name == "auto":
        name = f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UserError(f"--device {name}: unknown; give auto, cpu or cuda") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError(f"--device {name}: there is no GPU; give cpu")
    return device


def _shard_of_torchrun() -> tuple[int, int]:
    return int(os.environ.get("RANK", 0)) + 1, int(os.environ.get("WORLD_SIZE", 1))


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
    group.add_argument("--self-ensemble", choices=list(SYMMETRIES), default="none")
    group.add_argument("--precision", choices=("auto", "fp32", "bf16", "fp16"), default="auto")
    group.add_argument(
        "--strength",
        type=_strength,
        help="of FBCNN, 0 to 1; default: by the quality of the file, else of its pixels",
    )
    group.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, ...")
    group.add_argument("--compile", action="store_true", help="compile the networks first")
    group.add_argument("--threads", type=number(1, 1024), help="of the CPU")
