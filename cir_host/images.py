"""BasicSR's reading and writing of images made to name the file that fails."""

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import cv2

from cir_host.errors import UserError


class FileBytes(bytes):
    """The bytes of a file or LMDB entry that know where they came from."""

    source: str


def remember_source(original: Callable[..., Any]) -> Callable[..., Any]:
    """Make ``FileClient.get`` return :class:`FileBytes`, and name an LMDB key that is not there.

    Raises:
        UserError: The key is not in the LMDB.
    """

    @wraps(original)
    def get(self: Any, filepath: Any, client_key: str = "default") -> Any:
        content = original(self, filepath, client_key)
        if content is None:
            raise UserError(f"{filepath}: no such key in the LMDB of {client_key!r}")
        content = FileBytes(content)
        content.source = str(filepath)
        return content

    return get


def name_unreadable(original: Callable[..., Any]) -> Callable[..., Any]:
    """Make ``imfrombytes`` say which file holds no image that OpenCV can read.

    Raises:
        UserError: The content is empty or not an image.
    """

    @wraps(original)
    def imfrombytes(content: Any, flag: str = "color", float32: bool = False) -> Any:
        try:
            return original(content, flag, float32)
        except (AttributeError, cv2.error) as error:  # OpenCV gives None, or refuses no bytes
            source = getattr(content, "source", "image")
            raise UserError(
                f"{source}: not an image that can be read; remove or replace it"
            ) from error

    return imfrombytes


def name_unwritable(original: Callable[..., Any]) -> Callable[..., Any]:
    """Make ``imwrite`` say which file cannot be written and why, such as a name that is too long.

    Raises:
        UserError: OpenCV, which tells no reason, has written nothing.
    """

    @wraps(original)
    def imwrite(img: Any, file_path: str, *args: Any, **kwargs: Any) -> Any:
        try:
            return original(img, file_path, *args, **kwargs)
        except (OSError, cv2.error) as error:
            raise UserError(
                f"{file_path}: cannot be written ({_reason(file_path, error)})"
            ) from error

    return imwrite


def _reason(file_path: str, error: Exception) -> str:
    try:
        with Path(file_path).open("ab"):
            return " ".join(str(error).split())
    except OSError as refusal:
        return refusal.strerror or str(refusal)
