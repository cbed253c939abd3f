"""``meta_info`` files, BasicSR's lists of images: read and written."""

import codecs
import json
import os
import re
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path, PurePosixPath

from cir_data.images.formats import IN_DATA_SETS
from cir_host.errors import UserError
from cir_host.files import read_regular


def read_meta_info(path: Path) -> list[str]:
    """Return the image names of a ``meta_info`` file.

    A line is a name, optionally followed by ``(height,width,channels)`` and more. A name with
    spaces needs the size after it, unless the name is the whole line and ends like an image. Names
    in double quotes are those that :func:`meta_info_line` quotes. The text is UTF-8, or UTF-16
    with a byte order mark.

    Raises:
        UserError: The file is missing, cannot be read, or lists nothing.
    """
    try:
        data = read_regular(path)
        if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            text = data.decode("utf-16")
        else:
            text = os.fsdecode(data.removeprefix(codecs.BOM_UTF8))  # as file names are
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not {error.encoding.upper()} text ({error.reason})") from error
    except ValueError as error:  # a path with a zero byte
        raise UserError(f"{path}: {error}") from error
    names = [_name_in(line) for line in re.split("\r?\n|\r", text) if line.strip()]
    if not names:
        raise UserError(f"{path}: lists no images")
    return names


def meta_info_line(name: str, *facts: object) -> str:
    r"""Return the line of an image, with its line end, for :func:`meta_info_bytes`.

    A name that could not be read back, such as one with a line break, is quoted as JSON.

    Example:
        >>> meta_info_line("a.png", "(480,320,3)", 1)
        'a.png (480,320,3) 1\n'
    """
    plain = _PLAIN.fullmatch(name) and not os.fsencode(name).startswith(_MARKS)
    return " ".join([name if plain else json.dumps(name), *map(str, facts)]) + "\n"


_PLAIN = re.compile(r"\S(?:[^\r\n]*\S)?")
_MARKS = (b'"', codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
"""Starts of a line that would be misread as a quotation or an encoding."""


def meta_info_bytes(lines: Iterable[str]) -> bytes:
    """Return the content of a ``meta_info`` file: the bytes of the names, in every locale."""
    return b"".join(map(os.fsencode, lines))


def _name_in(line: str) -> str:
    line = line.strip()
    if line.startswith('"'):
        with suppress(ValueError):
            return str(json.JSONDecoder(strict=False).raw_decode(line)[0])
        if quoted := re.match('"([^"]+)"', line):  # with backslashes that are no JSON
            return quoted[1]
    with_size = re.match(r"(.*\S)\s+\(\d+,\s*\d+(?:,\s*\d+)?\)(?:\s|$)", line)
    if with_size:
        return with_size[1]
    first = line.split()[0]
    whole = _is_image(line) and not _is_image(first.rstrip(","))
    return line if whole else first


def _is_image(name: str) -> bool:
    return PurePosixPath(name).suffix.lower() in IN_DATA_SETS
