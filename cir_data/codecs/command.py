"""Codecs that are programs: HM, VTM, x265, HIFIC, or any other with a command line."""

import os
import re
import shlex
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

from PIL import Image

from cir_data.codecs.codec import Codec, CodecError, QualityScale
from cir_data.images.color import to_color
from cir_data.images.decoding import decode
from cir_data.images.errors import UnreadableImage
from cir_data.images.geometry import Pixels, Size
from cir_data.options import CommandOptions
from cir_host.errors import OptionsError, UserError
from cir_host.file_names import expanded

Command = Sequence[str]
"""A program and its arguments, with the placeholders of :data:`_MEANINGS`."""

_MEANINGS = {
    "encode": ("input", "bitstream", "quality", "width", "height", "folder"),
    "decode": ("bitstream", "output", "width", "height", "folder"),
}
_NEEDED = {"encode": ("input", "bitstream"), "decode": ("bitstream", "output")}
_PLACEHOLDER = re.compile(r"\{(\w+)\}")


class CommandCodec(Codec):
    """A codec that runs commands, without a shell, in a temporary folder.

    ``encode`` reads the image as an 8-bit RGB PNG and writes the bitstream; ``decode`` reads the
    bitstream and writes an image in any format that Pillow reads. Both may be lists of commands,
    for example to convert to and from raw video.

    Args:
        options: The value of the key ``codec``.
        where: The key, for messages.

    Raises:
        OptionsError: A command lacks a placeholder or has an unknown one.
        UserError: A program is not installed.
    """

    def __init__(self, options: CommandOptions, where: str) -> None:
        self._commands = {
            key: [
                _parse(text, f"{where}.{key}")
                for text in ([value] if isinstance(value, str) else value)
            ]
            for key, value in (("encode", options.encode), ("decode", options.decode))
        }
        for key, commands in self._commands.items():
            _check(commands, key, f"{where}.{key}")
        self._options = options
        self._name = options.name
        if options.version:
            command = _parse(options.version, f"{where}.version")
            with tempfile.TemporaryDirectory() as folder:
                self._name += f" ({self._run(command, {}, Path(folder))})"

    @property
    def scale(self) -> QualityScale:
        """The range that the options give."""
        return QualityScale(*self._options.quality_range)

    @property
    def version(self) -> str:
        """The name from the options, with the version that the program prints."""
        return self._name

    def encode(self, image: Pixels, quality: int) -> bytes:
        """Compress an image, (H, W, 3) RGB; see :meth:`Codec.encode`."""
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder) / "input.png"
            bitstream = Path(folder) / f"bitstream{self._options.suffix}"
            Image.fromarray(image).save(source, compress_level=1)
            height, width = image.shape[:2]
            values = {"input": source, "bitstream": bitstream, "quality": quality}
            self._run_all("encode", {**values, "height": height, "width": width}, Path(folder))
            return self._result(bitstream, "encode")

    def decode(self, data: bytes, size: Size) -> Pixels:
        """Return the image; see :meth:`Codec.decode`."""
        with tempfile.TemporaryDirectory() as folder:
            output = Path(folder) / "output.png"
            bitstream = Path(folder) / f"bitstream{self._options.suffix}"
            bitstream.write_bytes(data)
            values = {"bitstream": bitstream, "output": output}
            self._run_all("decode", {**values, "height": size[0], "width": size[1]}, Path(folder))
            try:
                decoded = decode(self._result(output, "decode"), output.name)
            except UnreadableImage as error:
                raise CodecError(f"{self._program('decode')} wrote no image: {error}") from error
        # a grey image may come back with one channel
        return to_color(decoded, "rgb")

    def _run_all(self, key: str, values: Mapping[str, object], folder: Path) -> None:
        for command in self._commands[key]:
            self._run(command, {**values, "folder": folder}, folder)

    def _run(self, command: Command, values: Mapping[str, object], folder: Path) -> str:
        """Run a program; return the first line that it prints."""
        arguments = [_PLACEHOLDER.sub(lambda m: str(values[m[1]]), part) for part in command]
        # files, because a program left in the background could keep a pipe open
        with (folder / "stdout").open("w+b") as printed, (folder / "stderr").open("w+b") as said:
            try:
                process = subprocess.Popen(
                    arguments,
                    stdin=subprocess.DEVNULL,
                    stdout=printed,
                    stderr=said,
                    cwd=folder,
                    start_new_session=True,
                )
            except OSError as error:
                raise CodecError(f"{command[0]}: cannot be run: {error.strerror}") from error
            try:
                status = process.wait(self._options.timeout)
            except subprocess.TimeoutExpired as error:
                raise CodecError(
                    f"{command[0]}: exceeded the timeout of {self._options.timeout:g} s"
                ) from error
            finally:
                _end(process)
            lines = [_lines(file) for file in (printed, said)]
        if status != 0:
            last = (lines[1] or lines[0] or ["no output"])[-1]
            how = f"signal {-status}" if status < 0 else f"exit status {status}"
            raise CodecError(f"{command[0]}: failed with {how}: {last}")
        return (lines[0] or lines[1] or [command[0]])[0]

    def _result(self, path: Path, key: str) -> bytes:
        try:
            data = path.read_bytes()
        except OSError:
            data = b""
        if not data:
            raise CodecError(f"{self._program(key)}: succeeded, but wrote no {path.stem}")
        return data

    def _program(self, key: str) -> str:
        return self._commands[key][-1][0]


def _lines(file: IO[bytes]) -> list[str]:
    file.seek(0)
    text = file.read().decode("utf-8", "replace")
    return [line.strip() for line in text.splitlines() if line.strip()]


def _end(process: "subprocess.Popen[bytes]") -> None:
    """Kill a program that still runs, with its child processes."""
    if process.poll() is None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _parse(text: str, where: str) -> Command:
    try:
        command = shlex.split(text)
    except ValueError as error:
        raise OptionsError(f"{where}: {text!r}: {error}") from error
    if not command:
        raise OptionsError(f"{where}: the command is empty")
    program = str(expanded(command[0]))
    found = shutil.which(program)
    if found is None:
        raise UserError(f"{where}: {command[0]}: no such program; install it or give its path")
    # programs run in a folder of their own
    return [str(Path(found).absolute()), *command[1:]]


def _check(commands: Sequence[Command], key: str, where: str) -> None:
    used = {name for command in commands for part in command for name in _PLACEHOLDER.findall(part)}
    unknown = sorted(used - set(_MEANINGS[key]))
    if unknown:
        known = ", ".join(f"{{{name}}}" for name in _MEANINGS[key])
        raise OptionsError(f"{where}: unknown placeholder {{{unknown[0]}}}; known: {known}")
    for name in _NEEDED[key]:
        if name not in used:
            raise OptionsError(f"{where}: the placeholder {{{name}}} is missing")
