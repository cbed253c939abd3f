"""BasicSR's reading and writing of images, with errors that name the file."""

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import cv2

from cir_host.errors import UserError
from cir_host.file_names import short_name
from cir_host.files import write_bytes_whole


class FileBytes(bytes):
    """The bytes of a file or LMDB entry, with their source."""

    source: str


def remember_source(original: Callable[..., Any]) -> Callable[..., Any]:
    """Make ``FileClient.get`` return :class:`FileBytes`, and name a missing LMDB key.

    Raises:
        UserError: The key is not in the LMDB.
    """

    @wraps(original)
    def get(self: Any, filepath: Any, client_key: str = "default") -> Any:
        content = original(self, filepath, client_key)
        if content is None:
            raise UserError(
                f"{filepath}: no such key in the LMDB of {client_key!r}; make the LMDB again"
            )
        content = FileBytes(content)
        content.source = str(filepath)
        return content

    return get


def name_unreadable(original: Callable[..., Any]) -> Callable[..., Any]:
    """Make ``imfrombytes`` name a file that OpenCV cannot decode.

    Raises:
        UserError: The content is empty or not an image.
    """

    @wraps(original)
    def imfrombytes(content: Any, flag: str = "color", float32: bool = False) -> Any:
        try:
            return original(content, flag, float32)
        except (AttributeError, cv2.error) as error:  # OpenCV returns None, or refuses empty data
            source = getattr(content, "source", "image")
            advice = "remove or replace it"
            if Path(source).name in ("data.mdb", "lock.mdb"):
                advice = "its folder is an LMDB, which needs io_backend: {type: lmdb}"
            raise UserError(f"{source}: cannot be read as an image; {advice}") from error

    return imfrombytes


def write_by_python(original: Callable[..., Any]) -> Callable[..., Any]:
    """Make ``imwrite`` encode with OpenCV and write with Python, which accepts every path.

    Names of files and folders that are too long for the file system are cut and stay distinct.

    Raises:
        UserError: The file cannot be written.
    """

    @wraps(original)
    def imwrite(img: Any, file_path: str, params: Any = None, auto_mkdir: bool = True) -> None:
        given = Path(file_path)
        folders = [
            part if part == given.anchor else short_name(part) for part in given.parent.parts
        ]
        path = Path(*folders, short_name(given.stem, given.suffix))
        try:
            _, data = cv2.imencode(given.suffix, img, params or [])
            if auto_mkdir:
                path.parent.mkdir(parents=True, exist_ok=True)
            write_bytes_whole(path, bytes(data))
        except (OSError, ValueError, cv2.error) as error:
            reason = " ".join(str(getattr(error, "strerror", None) or error).split())
            raise UserError(f"{file_path}: cannot be written ({reason})") from error

    return imwrite
