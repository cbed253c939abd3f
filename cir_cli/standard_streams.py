"""Standard output and error of the command when writing fails: a closed pipe, a full disk."""

import errno
import io
import os
import signal
import sys
from collections.abc import Callable
from typing import Any, TextIO

BROKEN_PIPE = 128 + getattr(signal, "SIGPIPE", 13)
"""Exit status of a command whose reader has ended."""

_FULL = {errno.ENOSPC, errno.EDQUOT}


def run_watched(command: Callable[[], int]) -> int:
    """Run a command; report output that cannot be written by one line and the exit status.

    Returns:
        The command's status; 141 if the reader of a pipe has ended; 1 if standard output cannot be
        written for another reason, or a file cannot be read or written.

    Raises:
        BaseException: Whatever else the command raises.
    """
    output, messages = _Watched("stdout", raises=True), _Watched("stderr", raises=False)
    try:
        try:
            status = command()
        except OSError as error:
            status = _file_failed(error) if output.failure is None else 1
        except SystemExit as end:
            if output.flushed() and messages.flushed():
                raise
            status = end.code if isinstance(end.code, int) else 1
        output.flushed()
        if output.failure is not None and output.failure.errno != errno.EPIPE:
            reason = output.failure.strerror
            print(f"basicsr: error: standard output cannot be written: {reason}", file=sys.stderr)
        messages.flushed()
    finally:
        output.put_back()
        messages.put_back()
    failures = [stream.failure for stream in (output, messages) if stream.failure is not None]
    if any(failure.errno == errno.EPIPE for failure in failures):
        return BROKEN_PIPE
    return status or int(bool(failures))


def _file_failed(error: OSError) -> int:
    """Print which file could not be read or written, if the error says so; return the status."""
    if error.filename is None and error.errno not in _FULL:
        raise error
    name = "a file" if error.filename is None else error.filename
    print(f"basicsr: error: {name}: {error.strerror}", file=sys.stderr)
    return 1


class _Watched:
    """Replaces a standard stream of this process and records its first failure.

    A stream that is closed from the start is replaced by one on which writing fails (output) or is
    discarded (messages). Python sets it to None; ``print(..., file=sys.stderr)`` would then go to
    standard output, and a file opened later would get its descriptor.
    """

    def __init__(self, name: str, raises: bool) -> None:
        self._name = name
        self._raw: _Raw | None = None
        self._given: TextIO | None = getattr(sys, name)
        if self._given is None:
            number = os.open(os.devnull, os.O_RDONLY if raises else os.O_WRONLY)
        elif self._given is getattr(sys, f"__{name}__"):
            number = self._given.fileno()
        else:  # something else has replaced it, such as a test
            return
        self._raw = _Raw(number, raises)
        setattr(sys, name, _text_stream(self._raw, self._given))

    @property
    def failure(self) -> OSError | None:
        """The first failure, if any."""
        return None if self._raw is None else self._raw.failure

    def flushed(self) -> bool:
        """Flush the stream; return whether everything was written."""
        if self._raw is not None:
            try:
                getattr(sys, self._name).flush()
            except OSError:
                return False
        return self.failure is None

    def put_back(self) -> None:
        """Restore the original stream."""
        setattr(sys, self._name, self._given)


class _Raw(io.FileIO):
    """An open file that raises its first failure, or none, and discards everything afterwards."""

    def __init__(self, number: int, raises: bool) -> None:
        super().__init__(number, "w", closefd=False)
        self.failure: OSError | None = None
        self._raises = raises

    def write(self, data: Any) -> int | None:  # type: ignore[override]
        """Write bytes; see :meth:`io.RawIOBase.write`."""
        if self.failure is None:
            try:
                return super().write(data)
            except OSError as error:
                self.failure = error
                if self._raises:
                    raise
        return len(data)


def _text_stream(raw: _Raw, like: TextIO | None) -> TextIO:
    """Return a text stream with the encoding and buffering of another one."""
    if not isinstance(like, io.TextIOWrapper):
        return io.TextIOWrapper(io.BufferedWriter(raw), encoding="utf-8", errors="replace")
    like.flush()
    unbuffered = isinstance(like.buffer, io.RawIOBase)
    return io.TextIOWrapper(
        raw if unbuffered else io.BufferedWriter(raw),
        encoding=like.encoding,
        errors=like.errors,
        line_buffering=like.line_buffering,
        write_through=like.write_through,
    )
