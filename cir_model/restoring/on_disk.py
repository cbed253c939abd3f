"""Restore a file: read it, restore or copy it, and write the result with its metadata."""

import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from PIL import Image
from torch import Tensor

from cir_data.images.errors import DECODING_ERRORS
from cir_data.images.formats import FORMATS, SIXTEEN_BITS
from cir_data.images.jpeg_coefficients import read_coefficients
from cir_data.images.jpeg_planes import JpegPlanes, read_planes
from cir_data.images.metadata import metadata_of
from cir_data.images.reading import FileFacts, Picture, examine, read
from cir_data.images.writing import Encoding, write_file
from cir_data.images.xmp import source_of, with_source
from cir_host.errors import UserError
from cir_host.file_names import short_name
from cir_host.files import read_regular
from cir_model.restoring.block_grid import CONFIDENT, SMALLEST, Blocks, search
from cir_model.restoring.consistency import UNCORRECTED, project
from cir_model.restoring.in_memory import default_restorer
from cir_model.restoring.inference import Restorer
from cir_model.restoring.pictures import as_tensor, restore_picture
from cir_model.restoring.pixel_quality import estimator, pixel_quality
from cir_model.restoring.settings import RestoreOptions


@dataclass(frozen=True)
class Job:
    """A file, and the paths of its result."""

    source: Path
    restored: Path
    """The path of the restored image."""
    copied: Path
    """The path of the copy if the file needs no restoration."""
    format: str
    """Of the restored image, a key of :data:`cir_data.images.formats.SUFFIXES`."""
    earlier: Sequence[Path] = ()
    """Other paths where an earlier run may have written the result."""
    exact: bool = False
    """Fail if the path is taken, instead of choosing another name."""


@dataclass(frozen=True)
class Outcome:
    """What happened to a file."""

    action: Literal["restored", "copied", "skipped"]
    note: str
    """The quality of the file, or why it was not restored."""
    data: bytes = b""
    """The content of the result; empty if the file was skipped."""
    output: Path | None = None
    """The path of the result, if it was written to a file."""
    pixels: int = 0
    """Number of input pixels that were restored."""
    restorable: bool = True
    """Whether ``force`` would restore a file that was copied."""
    warnings: tuple[str, ...] = ()
    """What the user should know, such as dropped metadata."""
    before: Picture | None = None
    after: Picture | None = None
    """Input and output, upright, if the image was restored."""


@dataclass(frozen=True)
class Loaded:
    """The content of a file."""

    data: bytes
    facts: FileFacts
    where: str
    """The name of the file in messages."""
    picture: Picture | None = None
    """None if it is not decoded yet."""


@dataclass(frozen=True)
class Begun:
    """A file that is through the network; the result still has to be encoded and written."""

    finish: Callable[[], Outcome]
    """Encodes and writes; may run in another thread. Raises UserError like :func:`restore_job`."""
    pixels: int
    """Of the input."""


LARGEST_AHEAD = 16_000_000
"""Pixels of the largest picture that waits in memory while the network restores another."""


def restore_file(
    source: Path | str,
    output: Path | str,
    restorer: Restorer | None = None,
    options: RestoreOptions | None = None,
) -> Outcome:
    """Restore a file, or copy it byte for byte if it needs no restoration.

    An existing result that was made from this file is kept, unless ``options.overwrite`` is set.

    Args:
        source: An image file.
        output: The file to write; its suffix selects the format, see
            :data:`cir_data.images.formats.FORMATS`. A copy keeps the format of the source.
        restorer: The networks; None: the bundled weights.
        options: What to restore, and how to write it; None: the defaults.

    Returns:
        What happened, with the content and the path of the result.

    Raises:
        UserError: The file cannot be read, restored or written, the suffix is unknown, or another
            file has the path of the output.

    Example:
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> from PIL import Image
        >>> from cir_model import restore_file
        >>> with TemporaryDirectory() as name:
        ...     source = Path(name, "photo.jpg")
        ...     Image.new("RGB", (48, 32), "teal").save(source, quality=10)
        ...     outcome = restore_file(source, Path(name, "restored.png"))
        >>> outcome.action, outcome.note
        ('restored', 'JPEG quality 10')
    """
    target = Path(output)
    file_format = FORMATS.get(target.suffix.lower())
    if file_format is None:
        raise UserError(f"{target}: the suffix must be one of {', '.join(sorted(FORMATS))}")
    job = Job(Path(source), target, target, file_format, exact=True)
    return restore_job(job, restorer or default_restorer(), options or RestoreOptions())


def restore_job(job: Job, restorer: Restorer, options: RestoreOptions) -> Outcome:
    """Restore a file of a batch, or copy it byte for byte if it needs no restoration.

    An existing result is kept unless ``options.overwrite`` is set. A restored image names in its
    XMP the content that it was made from, and a copy equals it, so results of other files are told
    apart. If another file has the path, the result gets a name of its own.

    Raises:
        UserError: The file cannot be read, restored or written, or its path is taken and
            ``job.exact`` is set.
    """
    return begin_job(job, restorer, options).finish()


def load(data: bytes, where: str) -> Loaded:
    """Read the header of a file.

    Raises:
        UserError: It is no image that can be read.
    """
    return Loaded(data, examine(data, where), where)


def load_ahead(job: Job, options: RestoreOptions) -> Loaded | None:
    """Read and decode a file before its turn, in a thread beside the network.

    Returns:
        None if the file is better read in its turn: it will probably be copied or skipped, it is
        large, or it cannot be read, which is then reported in its turn.
    """
    where = str(job.source)
    try:
        data = read_regular_file(job.source)
        facts = examine(data, where)
        if why_copied(facts, options) or facts.pixels > min(LARGEST_AHEAD, options.max_pixels):
            return None
        if not options.overwrite and os.path.lexists(job.restored):
            return None
        return Loaded(data, facts, where, read(data, where, strict=options.strict))
    except Exception:  # whatever it is, the file's turn meets it again and reports it
        return None


def begin_job(
    job: Job, restorer: Restorer, options: RestoreOptions, loaded: Loaded | None = None
) -> Begun:
    """Do the part of :func:`restore_job` up to the network's result.

    Args:
        job: The file.
        restorer: The networks.
        options: What to restore, and how to write it.
        loaded: The content of the file; None: it is read here.

    Raises:
        UserError: Like :func:`restore_job`.
    """
    if loaded is None:
        loaded = load(read_regular_file(job.source), str(job.source))
    data, facts = loaded.data, loaded.facts
    copies = bool(why_copied(facts, options))
    wanted = job.copied if copies else job.restored
    target = wanted if options.overwrite else _target(job, data, copies)
    if isinstance(target, Outcome):
        skipped = target
        return Begun(lambda: skipped, 0)
    encode = _begin_bytes(loaded, job.format, restorer, options)

    def finish() -> Outcome:
        outcome = encode()
        path: Path | Outcome = target
        while isinstance(path, Path):
            warnings = outcome.warnings
            if path != wanted:
                warnings += (f"{wanted} exists and was not made from it; written to {path}",)
            if copies and job.exact and job.format.upper() != facts.format:
                warnings += (f"{wanted} is a {facts.format} file, since copies keep their format",)
            try:
                # another name than the wanted one tells the content: what is there may be replaced
                write_file(path, outcome.data, replace=options.overwrite or path != wanted)
                return replace(outcome, output=path, warnings=warnings)
            except FileExistsError:  # another process has written it meanwhile
                path = _target(job, data, copies)
        return path

    return Begun(finish, facts.pixels)


def _target(job: Job, data: bytes, copies: bool) -> Path | Outcome:
    """Return where the result of a file goes that replaces no other, or that it is there already.

    Raises:
        UserError: The path is taken, and ``job.exact`` is set.
    """
    digest = _digest(data)
    wanted = job.copied if copies else job.restored
    own = wanted.with_name(short_name(wanted.stem, f".{digest[:8]}{wanted.suffix}"))
    for path in (wanted, *job.earlier, own):
        if (path == own and path.exists()) or (
            _is_copy(path, data) if copies else _is_made_from(path, digest)
        ):
            return Outcome("skipped", f"{path} was made from it", output=path)
    if not os.path.lexists(wanted):
        return wanted
    if job.exact:
        raise UserError(f"{wanted}: exists; give --overwrite to replace it")
    return own


def restore_bytes(
    data: bytes,
    where: str,
    file_format: str,
    restorer: Restorer,
    options: RestoreOptions,
) -> Outcome:
    """Restore the content of a file, or return it unchanged if it needs no restoration.

    Args:
        data: The content.
        where: Its path, for messages.
        file_format: Of the result, a key of :data:`cir_data.images.formats.SUFFIXES`.
        restorer: The network.
        options: What to restore, and how to write it.

    Returns:
        What happened, with the content of the result; nothing is written.

    Raises:
        UserError: The content cannot be read or restored, or the format cannot hold the result.
    """
    return _begin_bytes(load(data, where), file_format, restorer, options)()


def _begin_bytes(
    loaded: Loaded, file_format: str, restorer: Restorer, options: RestoreOptions
) -> Callable[[], Outcome]:
    """Run the network; what is returned encodes the result."""
    data, facts, where = loaded.data, loaded.facts, loaded.where
    if reason := why_copied(facts, options):
        note = _with_pixel_quality(reason, data, where, facts, restorer)
        copied = Outcome("copied", note, data, restorable=facts.frames == 1)
        return lambda: copied
    if facts.pixels > options.max_pixels:
        raise UserError(
            f"{where}: {facts.width} x {facts.height} pixels are more than --max-pixels"
            f" {options.max_pixels}"
        )
    before = loaded.picture or read(data, where, strict=options.strict)
    bits = options.bits
    if bits is None and file_format not in SIXTEEN_BITS:
        bits = 8
    quality, note, blocks = _quality(before, facts, restorer)
    inputs = {"block_offset": blocks, **_inputs(options.strength, quality)}
    not_held: list[str] = []
    jpeg: JpegPlanes | None = None
    hold = _hold(data, facts, restorer, not_held)
    try:
        if restorer.input_kind == "coefficients" and facts.format == "JPEG":
            jpeg = read_planes(data)
        restored = restore_picture(restorer, before, bits, hold, jpeg, **inputs)
    except UserError as error:
        raise UserError(f"{where}: {error}") from error
    digest = _digest(data)

    def encode() -> Outcome:
        encoding = Encoding(file_format, options.quality)
        content, dropped = _encoded(restored, encoding, digest, where)
        warnings = (*before.warnings, *not_held)
        if jpeg is not None and jpeg.warning:
            warnings = (*warnings, jpeg.warning)
        if dropped := (*before.metadata.dropped, *dropped):
            warnings = (*warnings, f"dropped {', '.join(dropped)}")
        return Outcome(
            "restored",
            note,
            content,
            pixels=facts.pixels,
            warnings=warnings,
            before=before.upright(),
            after=restored.upright(),
        )

    return encode


def _encoded(
    restored: Picture, encoding: Encoding, digest: str, where: str
) -> tuple[bytes, tuple[str, ...]]:
    """Return a file that names in its XMP what it was made from, and the metadata it lacks."""
    marked = replace(restored.metadata, xmp=with_source(restored.metadata.xmp, digest))
    metadata, dropped = encoding.fitted(marked)
    if metadata.xmp is None:  # the packet did not fit, but its new entry alone does
        metadata = replace(metadata, xmp=with_source(None, digest))
    return encoding.encode(replace(restored, metadata=metadata), where), dropped


def read_regular_file(path: Path) -> bytes:
    """Return the content of a file, without waiting for a pipe or reading a device.

    Raises:
        UserError: The file does not exist, is not a regular file, or cannot be read.
    """
    try:
        return read_regular(path)
    except OSError as error:
        reason = error.strerror
        if path.is_dir():
            reason = "is a folder, not a regular file"
        elif path.exists() and not path.is_file():
            reason = "is a pipe or a device, not a regular file"
        raise UserError(f"{path}: {reason}") from error


def _digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def _is_copy(path: Path, data: bytes) -> bool:
    return path.is_file() and path.stat().st_size == len(data) and path.read_bytes() == data


def _is_made_from(path: Path, digest: str) -> bool:
    """Return whether the XMP of a file says that it was restored from this content."""
    if not path.is_file():
        return False
    try:
        with Image.open(path) as image:
            return source_of(metadata_of(image).xmp) == digest
    except DECODING_ERRORS:
        return False


def why_copied(facts: FileFacts, options: RestoreOptions) -> str:
    """Return why a file needs no restoration; empty if it needs it."""
    if options.force:
        return ""
    if facts.lossless:
        frames = f" of {facts.frames} frames" if facts.frames > 1 else ""
        return f"lossless {facts.format}{frames}"
    if facts.quality is not None and facts.quality >= options.fine_quality:
        return quality_note(facts)
    return ""


def quality_note(facts: FileFacts) -> str:
    """Return the JPEG quality by the file's tables in words; empty for a file without tables."""
    if facts.quality is None:
        return ""
    return f"JPEG quality {'' if facts.standard_tables else 'about '}{facts.quality}"


def _with_pixel_quality(
    reason: str, data: bytes, where: str, facts: FileFacts, restorer: Restorer
) -> str:
    """Add the estimated quality of a lossless file, since many are decoded JPEGs."""
    if not facts.lossless:
        return reason
    try:
        note = _quality(read(data, where), facts, restorer)[1]
    except UserError:  # a damaged file is copied too
        note = ""
    return f"{reason}, {note}" if note else reason


def _quality(
    picture: Picture, facts: FileFacts, restorer: Restorer
) -> tuple[float | None, str, Blocks]:
    """Return the JPEG quality, a note on it, and where the JPEG blocks begin.

    The quality is that of the file's tables, else it is estimated from the pixels. The blocks of a
    JPEG begin at its corner; those of other files are searched for, once for both purposes.
    """
    corner = (0, 0) if facts.format == "JPEG" else None
    if facts.quality is not None:
        return facts.quality, quality_note(facts), corner
    image = as_tensor(picture).to(restorer.device)
    if min(image.shape[-2:]) < SMALLEST:
        return None, "", corner
    offset, evidence = search(image)
    estimate = pixel_quality(estimator(restorer.networks, restorer.device), image, offset)
    note = f"pixels of JPEG quality about {estimate:.0f}"
    if corner is None and evidence >= CONFIDENT:
        return estimate, f"{note}, blocks from row {offset[0]}, column {offset[1]}", offset
    return estimate, note, corner


def _hold(
    data: bytes, facts: FileFacts, restorer: Restorer, not_held: list[str]
) -> Callable[[Tensor], Tensor] | None:
    """Return what holds the result to a JPEG file; it adds to ``not_held`` why it cannot."""
    options = restorer.options
    if not options.consistency or facts.format != "JPEG" or restorer.scale != 1:
        return None

    def hold(image: Tensor) -> Tensor:
        try:  # here, since the coefficients take memory that the network needs before
            coefficients = read_coefficients(data)
        except UserError as error:
            not_held.append(f"{UNCORRECTED}: {error}")
            return image
        return project(image, coefficients, options.cell, out=image)

    return hold


def _inputs(strength: float | None, quality: float | None) -> dict[str, Any]:
    """Return the inputs of networks that take ``quality``, as FBCNN does, or ``strength``.

    The quality is 1 - quality / 100, so that 1 restores most.
    """
    if strength is not None:
        return {"quality": strength, "strength": strength}
    return {} if quality is None else {"quality": 1 - quality / 100}
