"""``basicsr restore``: restore a batch of images, and keep their metadata."""

import argparse
import logging
import os
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

import torch
from torch import nn
from tqdm import tqdm

from cir_arch import facts_of, load_network
from cir_arch.running import run as run_network
from cir_cli import parsers
from cir_cli.heap import keep_freed_memory
from cir_cli.restore_jobs import STANDARD_STREAM, LeftOut, list_jobs, streams
from cir_cli.restore_views import Report, write_comparison
from cir_data.images.formats import SIXTEEN_BITS
from cir_diffusion.checkpoint import Kind, kind_of, load_codiff
from cir_host.errors import UserError
from cir_host.file_names import printable, short_name
from cir_model.restoring.batch_lines import Tally, failure, told
from cir_model.restoring.in_memory import restorer_of
from cir_model.restoring.inference import Restorer
from cir_model.restoring.on_disk import (
    LARGEST_AHEAD,
    Begun,
    Job,
    Loaded,
    Outcome,
    begin_job,
    load,
    load_ahead,
    read_regular_file,
    restore_bytes,
)
from cir_model.restoring.settings import CELL, InferenceOptions, RestoreOptions
from cir_weights import best_weights, default_weights


def run(arguments: list[str]) -> int:
    """Restore files, folders or a stream.

    Returns:
        0, or 1 if a file failed and the others are done.

    Raises:
        UserError: Nothing can be restored, such as for an unknown device.
    """
    keep_freed_memory()
    flags = parsers.restore().parse_args(arguments)
    left_out = LeftOut()
    jobs = list_jobs(flags.inputs, flags.output, flags.format, left_out)
    part, parts = flags.shard or _shard_of_torchrun()
    _check_views(flags.report, flags.compare, jobs, Path(flags.output))
    _check_results(flags, {job.format for job in jobs})
    if flags.threads:
        torch.set_num_threads(flags.threads)
    with _log_shown():
        batch = _Batch(
            _restorer(flags),
            RestoreOptions(**{f.name: getattr(flags, f.name) for f in fields(RestoreOptions)}),
            Path(flags.output),
            flags.compare,
            Report(flags.report) if flags.report else None,
        )
        return batch.run(jobs[part - 1 :: parts], left_out if part == 1 else LeftOut())


@dataclass
class _Batch:
    """The files of one process, and what became of them.

    While the network restores a file, one thread reads the next and another writes the last.
    """

    restorer: Restorer
    options: RestoreOptions
    output: Path
    compare: Path | None
    report: Report | None
    tally: Tally = field(default_factory=Tally)
    waiting: tuple[Job, Future[Outcome]] | None = None
    """The file that is being written."""

    def run(self, jobs: Sequence[Job], left_out: LeftOut) -> int:
        start = time.perf_counter()
        for line in left_out.unreadable:
            self._fail(line)
        try:
            self._restore_all(jobs)
        finally:  # also when the batch is interrupted
            self._settle()
            self._write_report()
        for line in left_out.lines():
            _say(f"left out: {line}")
        seconds = time.perf_counter() - start
        used = self.restorer.describe()
        how = f"{used['inference']}, {used['precision']}"
        if averaged := used.get("networks averaged"):
            how += f", networks averaged: {averaged}"
        counts = self.tally.counts
        _say(self.tally.line(seconds) + (f" ({how})" if counts["restored"] else ""))
        return 1 if counts["failed"] else 0

    def _restore_all(self, jobs: Sequence[Job]) -> None:
        start = time.perf_counter()
        with (
            tqdm(jobs, unit="image", disable=None if len(jobs) > 1 else True) as bar,
            ThreadPoolExecutor(1) as reader,
            ThreadPoolExecutor(1) as writer,
        ):
            ahead: Future[Loaded | None] | None = None
            for index, job in enumerate(bar):
                loaded = ahead.result() if ahead else None
                following = jobs[index + 1 : index + 2]
                ahead = reader.submit(load_ahead, following[0], self.options) if following else None
                self._do(job, loaded, writer)
                speed = self.tally.pixels / 1e6 / (time.perf_counter() - start)
                bar.set_postfix_str(f"{speed:.2f} MP/s")

    def _do(self, job: Job, loaded: Loaded | None, writer: ThreadPoolExecutor) -> None:
        try:
            begun = self._begin(job, loaded)
        except Exception as error:  # one bad file must not end the batch
            self._settle()
            self.waiting = job, Future()
            self.waiting[1].set_exception(error)
        else:
            self._settle()
            self.waiting = job, writer.submit(begun.finish)
            if begun.pixels <= LARGEST_AHEAD:
                return
        self._settle()

    def _settle(self) -> None:
        """Wait until the last file is written, and report what became of it.

        Raises:
            OSError: Standard output cannot be written; ``run_watched`` reports that.
        """
        if self.waiting is None:
            return
        job, result = self.waiting
        wait([result])
        self.waiting = None
        try:
            outcome = result.result()
        except Exception as error:
            self._fail(failure(_name(job), error))
            return
        if streams(job):
            sys.stdout.buffer.write(outcome.data)
            sys.stdout.buffer.flush()
        try:
            self._show(job, outcome)
        except Exception as error:  # of the strip; the file counts once
            self._fail(failure(_name(job), error))
        else:
            self.tally.add(outcome)

    def _fail(self, line: str) -> None:
        self.tally.counts["failed"] += 1
        _say(f"error: {line}")

    def _begin(self, job: Job, loaded: Loaded | None) -> Begun:
        if str(job.source) == STANDARD_STREAM:
            if sys.stdin is None:
                raise UserError("standard input: it is closed")
            loaded = load(sys.stdin.buffer.read(), _name(job))
        if not streams(job):
            return begin_job(job, self.restorer, self.options, loaded)
        data = loaded.data if loaded else read_regular_file(job.source)
        outcome = restore_bytes(data, _name(job), job.format, self.restorer, self.options)
        return Begun(lambda: replace(outcome, output=job.restored), outcome.pixels)

    def _show(self, job: Job, outcome: Outcome) -> None:
        for warning in outcome.warnings:
            _say(f"warning: {_name(job)}: {warning}")
        _say(f"{_name(job)}: {told(outcome)}")
        before, after = outcome.before, outcome.after
        if before is None or after is None:
            return
        if self.report is not None:
            self.report.add(_name(job), outcome.note, before, after)
        if self.compare:
            write_comparison(_strip(job, self.compare, self.output), before, after)

    def _write_report(self) -> None:
        if self.report is not None:
            try:
                self.report.write()
            except UserError as error:
                self._fail(str(error))


def _check_views(
    report: Path | None, compare: Path | None, jobs: Sequence[Job], output: Path
) -> None:
    """Refuse paths for the page and the strips where they would replace something else.

    Raises:
        UserError: They would.
    """
    for path in (report, compare):
        if path is not None and path.exists() and path.is_dir() != (path is compare):
            wanted = "a file" if path.is_dir() else "a folder"
            raise UserError(
                f"{path}: is {'a folder' if path.is_dir() else 'a file'}; give {wanted}"
            )
    if report is not None and report.suffix.lower() not in (".html", ".htm"):
        raise UserError(f"--report {report}: the name must end in .html or .htm")
    if compare is not None:
        paths = [path for job in jobs for path in (job.source, job.restored, job.copied)]
        taken = {os.path.realpath(path) for path in paths}
        for strip in (_strip(job, compare, output) for job in jobs):
            if os.path.realpath(strip) in taken:
                raise UserError(
                    f"--compare {compare}: {strip} is an input or a result; give another folder"
                )


def _check_results(flags: argparse.Namespace, formats: set[str]) -> None:
    """Refuse flags that would change nothing, or fail for every file.

    Raises:
        UserError: They would.
    """
    if flags.cell is not None and flags.consistency is False:
        raise UserError("--cell: changes nothing with --no-consistency; leave out one of them")
    if flags.bits == 16 and not formats & SIXTEEN_BITS:
        raise UserError(
            f"--bits 16: {' and '.join(sorted(formats))} cannot hold 16 bits; write png or tiff"
        )


def _strip(job: Job, compare: Path, output: Path) -> Path:
    below = output if output in job.copied.parents else job.copied.parent
    strip = compare / job.copied.relative_to(below)
    return strip.with_name(short_name(strip.name, ".png"))


def _name(job: Job) -> str:
    return "standard input" if str(job.source) == STANDARD_STREAM else str(job.source)


def _say(line: str) -> None:
    tqdm.write(printable(line), file=sys.stderr)


class _LinesAboveTheBar(logging.Handler):
    """Prints log records without breaking the progress bar."""

    def emit(self, record: logging.LogRecord) -> None:
        _say(record.getMessage())


@contextmanager
def _log_shown() -> Iterator[None]:
    """Show what the networks' code logs, such as the size of the tiles."""
    logger, handler = logging.getLogger("basicsr"), _LinesAboveTheBar()
    level = logger.level
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


def _restorer(options: argparse.Namespace) -> Restorer:
    if options.best and options.model:
        raise UserError(
            "--best: names the bundled weights to use, as -m does; leave out one of them"
        )
    models = options.model or [(best_weights() if options.best else default_weights(), None)]
    paths, weights = [path for path, _ in models], [weight for _, weight in models]
    if None in weights and any(weight is not None for weight in weights):
        path = paths[weights.index(None)]
        raise UserError(
            f"-m {path}: has no weight, but another -m has; give each one a weight, such as"
            f" -m {path}=0.2, or none"
        )
    device = _device(options.device)
    networks = _networks(paths, options)
    consistency = options.consistency
    if consistency is None:
        stated = [facts_of(network) for network in networks]
        consistency = not any(facts.generative for facts in stated if facts)
        if options.cell is not None and not consistency:
            raise UserError("--cell: changes nothing for CODiff without --consistency; add it")
    how = InferenceOptions(
        tile=options.tile,
        overlap=options.overlap,
        self_ensemble=options.self_ensemble,
        grid=options.grid,
        precision=options.precision,
        consistency=consistency,
        cell=CELL if options.cell is None else options.cell,
    )
    averaging = [weight for weight in weights if weight is not None] or None
    names = [str(path) for path in paths]
    restorer = restorer_of(networks, names, device, how, averaging)
    if options.strength is not None:
        _check_strength(restorer)
    if options.compile:
        restorer.compile()
    return restorer


def _check_strength(restorer: Restorer) -> None:
    """Refuse a strength that would change nothing.

    Raises:
        UserError: No network takes one, or those that take one restore the same at 0 and at 1, as
            some weights do.
    """
    if "strength" in restorer.extra_inputs:
        return
    if "quality" not in restorer.extra_inputs:
        raise UserError(
            "--strength: none of the networks takes it, as FBCNN and CODiff do; leave out the flag"
        )
    ramp = torch.linspace(0, 1, 64 * 64, device=restorer.device).reshape(1, 1, 64, 64)
    image = ramp.expand(1, restorer.channels, -1, -1)
    for network, facts in zip(restorer.networks, restorer.facts, strict=True):
        if "quality" in facts.extra_inputs:
            with torch.inference_mode():
                least, most = (run_network(network, image, quality=value) for value in (0.0, 1.0))
            if not torch.equal(least, most):
                return
    raise UserError(
        f"--strength: {' and '.join(restorer.names)} restores the same at every strength; leave"
        " out the flag"
    )


def _networks(paths: Sequence[Path], options: argparse.Namespace) -> list[nn.Module]:
    kinds = [kind_of(path) for path in paths]
    takers: dict[str, tuple[Kind, ...]] = {
        "base": ("trained parts",),
        "cave": ("trained parts",),
        "align": ("trained parts", "converted"),
        "seed": ("trained parts", "converted"),
    }
    for flag, takes in takers.items():
        if getattr(options, flag) is not None and not {*takes} & {*kinds}:
            what = "codiff.pkl" if takes == ("trained parts",) else "CODiff"
            raise UserError(f"--{flag}: only {what} takes it, and no -m is one; leave out the flag")
    how = {flag: getattr(options, flag) for flag in ("align", "seed")}
    how = {flag: value for flag, value in how.items() if value is not None}
    whole = {"trained parts": (options.base, options.cave), "converted": (None, None)}
    return [
        load_network(path) if kind is None else load_codiff(path, *whole[kind], **how)
        for path, kind in zip(paths, kinds, strict=True)
    ]


def _device(name: str) -> torch.device:
    if name == "auto":
        name = f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UserError(
            f"--device {name}: unknown device; give auto, cpu, cuda or cuda:1"
        ) from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError(f"--device {name}: there is no GPU; give auto or cpu")
    return device


def _shard_of_torchrun() -> tuple[int, int]:
    """Return the part of this process and the number of parts, from torchrun's variables.

    Raises:
        UserError: The variables are not such numbers.
    """
    given = {name: os.environ[name] for name in ("RANK", "WORLD_SIZE") if name in os.environ}
    if len(given) < 2:
        for name, value in given.items():
            _say(f"warning: {name}={value} is ignored; torchrun sets both RANK and WORLD_SIZE")
        return 1, 1
    try:
        rank, processes = int(given["RANK"]), int(given["WORLD_SIZE"])
    except ValueError:
        rank, processes = -1, 0
    if not 0 <= rank < processes:
        raise UserError(
            f"RANK={given['RANK']} and WORLD_SIZE={given['WORLD_SIZE']} in the environment do not"
            " name a part of the work; unset them, or give --shard I/N"
        )
    if processes > 1:
        _say(f"restoring part {rank + 1} of {processes} of the files, by RANK and WORLD_SIZE")
    return rank + 1, processes
