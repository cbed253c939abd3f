"""Reading checkpoint files safely; the content, not the suffix, decides the format."""

import pickle
import re
import shutil
import stat
import tempfile
import warnings
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from cir_host.errors import UserError
from cir_host.file_names import printable

_SUFFIXES = (".pth", ".pt", ".ckpt", ".bin", ".pth.tar", ".safetensors")
"""Suffixes by which a checkpoint is found in a zip archive."""

_ARCHIVES = {
    "gzip": rb"\x1f\x8b",
    "bzip2": rb"BZh[1-9]",
    "xz": rb"\xfd7zXZ\0",
    "Zstandard": rb"\x28\xb5\x2f\xfd",
    "7-Zip": rb"7z\xbc\xaf\x27\x1c",
    "RAR": rb"Rar!\x1a\x07",
    "tar": rb"(?s:.{257})ustar",
}
_OTHER_FORMATS = {
    "an ONNX model": rb"\x08[\x01-\x20][\x12\x1a\x22\x3a]",
    "an HDF5 file": rb"\x89HDF",
    "a GGUF file": rb"GGUF",
    "a NumPy array": rb"\x93NUMPY",
}
"""First bytes of other programs' files."""

_PICKLE = 0x80
"""First byte of pickles, including those of ``torch.save``."""

_MOST_PACKED = 100
"""Highest compression ratio of weights in a zip archive; zeros reach 1000."""

_LONGEST_HEADER = 100_000_000
"""Bytes; the limit of safetensors."""


def shown(name: object) -> str:
    """Return a name from inside a file, fit for a message: printable, and cut if very long."""
    text = printable(str(name))
    return text if len(text) <= 200 else f"{text[:200]}..."


def some_of(names: Iterable[object], most: int = 3) -> str:
    """Return the first few of several names from inside a file, fit for a message."""
    words = [shown(name) for name in names]
    return ", ".join([*words[:most], *(["..."] if len(words) > most else [])])


@dataclass(frozen=True)
class CheckpointFile:
    """The content of a file, before a state dict is searched in it."""

    content: Any
    """The saved object, usually a mapping."""
    container: str
    """``safetensors``, ``zip`` (torch.save since 1.6) or ``legacy`` (before)."""
    metadata: Mapping[str, str]
    """Text that is stored beside the tensors."""
    member: str | None = None
    """The file within the zip archive, if the given file was one."""


def read_file(path: Path) -> CheckpointFile:
    """Read a file onto the CPU, without executing anything in it.

    Args:
        path: A file of ``torch.save``, old or new format, or of safetensors; or a zip archive with
            one of them in it.

    Raises:
        UserError: The file is missing, damaged, not a checkpoint, or holds other objects than
            tensors and plain values.
    """
    source = printable(str(path))
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):  # opening a pipe may block forever
            what = "a folder" if stat.S_ISDIR(mode) else "a pipe or device"
            raise UserError(f"{source}: is {what}, not a file")
        return _read(path, source, unpacked=False)
    except FileNotFoundError as error:
        raise UserError(f"{source}: no such file") from error
    except OSError as error:
        raise UserError(f"{source}: {error.strerror or error}") from error


def _read(path: Path, source: str, unpacked: bool) -> CheckpointFile:
    """Read a file of any format; an unpacked one may not be an archive again."""
    with path.open("rb") as file:
        head = file.read(512)
    _refuse_other_files(head, source)
    if head.startswith(b"PK"):
        return _read_zip(path, source, unpacked)
    header = int.from_bytes(head[:8], "little")
    if head[8:9] == b"{" and header <= _LONGEST_HEADER:
        return _load_safetensors(path, source)
    return _load_pickled(path, source, "legacy")


def _load_safetensors(path: Path, source: str) -> CheckpointFile:
    try:
        with _utf8_name(path) as name, safe_open(name, framework="pt") as file:
            content = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return CheckpointFile(content, "safetensors", file.metadata() or {})
    except SafetensorError as error:
        raise UserError(
            f"{source}: not a whole safetensors file ({reason(error)}); download or copy it again"
        ) from error


@contextmanager
def _utf8_name(path: Path) -> Iterator[Path]:
    """Give a file a UTF-8 name, since safetensors opens no other."""
    if str(path).isprintable():
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        link = Path(folder) / "link"
        link.symlink_to(path.absolute())
        yield link


def _load_pickled(path: Path, source: str, container: str) -> CheckpointFile:
    try:
        # given a path, PyTorch would decide by the suffix
        with path.open("rb") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # harmless, or the caller refuses the content
            content = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        stranger = re.search(r"(?:GLOBAL|Unsupported class) (\S+)", str(error))
        if stranger is None:
            raise UserError(f"{source}: damaged, or not a PyTorch checkpoint") from error
        raise UserError(
            f"{source}: holds Python objects ({shown(stranger[1])}), which may run any code; if you"
            " trust its source, load it with torch.load(..., weights_only=False) and save its state"
            " dict"
        ) from error
    except Exception as error:  # of any type, as damage turns into arbitrary instructions
        raise _damaged(source, error) from error
    values: Mapping[Any, Any] = content if isinstance(content, Mapping) else {}
    metadata = {str(k): v for k, v in values.items() if isinstance(v, str)}
    return CheckpointFile(content, container, metadata)


def _damaged(source: str, error: Exception) -> UserError:
    return UserError(f"{source}: damaged or cut short ({reason(error)}); download or copy it again")


def reason(error: Exception) -> str:
    """Return the first sentence of an error, since PyTorch's messages can fill a page."""
    text = re.sub(r"^\[enforce fail at \S+\] \. ", "", str(error))
    return shown(re.split(r"\.\s|\n", text)[0] or type(error).__name__)


def _read_zip(path: Path, source: str, unpacked: bool) -> CheckpointFile:
    """Read a file of ``torch.save``, which is a zip archive itself, or a zipped checkpoint."""
    try:
        archive = zipfile.ZipFile(path)
    except Exception as error:  # of many types
        raise _damaged(source, error) from error
    with archive:
        members = archive.namelist()
        if any(re.fullmatch(r"[^/]+/data\.pkl", name) for name in members):
            _refuse_torchscript(members, source)
            return _load_pickled(path, source, "zip")
        if unpacked:
            raise UserError(f"{source}: is a zip archive within a zip archive; unpack it")
        return _read_member(archive, _checkpoint_among(members, source), source)


def _refuse_torchscript(members: Iterable[str], source: str) -> None:
    if any(re.match(r"[^/]+/code/", name) for name in members):
        raise UserError(
            f"{source}: is a TorchScript program, not a state dict; if you trust its source, load"
            " it with torch.jit.load and save its state dict"
        )


def _checkpoint_among(members: Iterable[str], source: str) -> str:
    """Return the name of the only checkpoint in a zip archive."""
    visible = [name for name in members if not PurePosixPath(name).name.startswith(".")]
    found = [name for name in visible if name.lower().endswith(_SUFFIXES)]
    if not found:
        holds = some_of(visible) or "nothing"
        raise UserError(f"{source}: is a zip archive without a checkpoint; it holds {holds}")
    if len(found) > 1:
        raise UserError(
            f"{source}: is a zip archive of {len(found)} checkpoints ({some_of(found)}); unpack it"
            " and give one of them"
        )
    return found[0]


def _read_member(archive: zipfile.ZipFile, member: str, source: str) -> CheckpointFile:
    entry = archive.getinfo(member)
    if entry.file_size > _MOST_PACKED * entry.compress_size:  # unpacking it might fill the disk
        raise UserError(
            f"{source}: {shown(member)} in it would unpack to {entry.file_size:,} bytes, far more"
            " than weights do; unpack it yourself and give the file"
        )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "member"
        try:
            with archive.open(member) as packed, path.open("wb") as unpacked:
                shutil.copyfileobj(packed, unpacked)
        except Exception as error:  # each compression method has its own type
            raise UserError(
                f"{source}: {shown(member)} in it cannot be unpacked ({reason(error)}); unpack"
                " it yourself and give the file"
            ) from error
        file = _read(path, f"{source}, {shown(member)} in it", unpacked=True)
        return replace(file, member=member)


def _refuse_other_files(head: bytes, source: str) -> None:
    """Refuse files of other kinds that are often given by mistake, and name the kind."""
    if not head:
        raise UserError(f"{source}: is empty; download or copy it again")
    if not head.strip(b"\0"):
        raise UserError(f"{source}: damaged (it begins with zeros); download or copy it again")
    if head.startswith(b"version https://git-lfs"):
        raise UserError(
            f"{source}: is a Git LFS pointer; fetch the file itself with `git lfs pull`"
        )
    text = head.lstrip().lower()
    if text.startswith((b"<!doctype", b"<html", b"<?xml")):
        raise UserError(f"{source}: is a web page, not a checkpoint; download the file itself")
    if all(byte >= 0x20 or byte in b"\t\r\n" for byte in head) and head[0] != _PICKLE:
        raise UserError(f"{source}: is a text file, not a checkpoint")
    for name, start in _ARCHIVES.items():
        if re.match(start, head):
            raise UserError(f"{source}: is packed with {name}; unpack it and give the checkpoint")
    for name, start in _OTHER_FORMATS.items():
        if re.match(start, head):
            raise UserError(f"{source}: is {name}, not a PyTorch checkpoint")
