"""Where prepared images are written: an LMDB or a folder of files."""

import os
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lmdb

from cir_data.storage.lmdb_source import lmdb_facts

FIRST_MAP = 1 << 30
"""Initial size of an LMDB's map in bytes; it doubles whenever it is full."""


class Writer(ABC):
    """Stores encoded images by key."""

    @abstractmethod
    def write(self, entries: Mapping[str, bytes]) -> None:
        """Store all images or none; they are on disk when this returns.

        Raises:
            OSError: The disk is full, or permission is missing.
        """

    @abstractmethod
    def close(self) -> dict[str, Any]:
        """Close the store; return facts by which a reader detects later changes."""


class LmdbWriter(Writer):
    """Writes an LMDB in BasicSR's layout."""

    def __init__(self, folder: Path, map_size: int = FIRST_MAP) -> None:
        try:
            self._environment = lmdb.open(os.fsencode(folder), map_size=map_size)
        except lmdb.Error as error:
            raise OSError(str(error)) from error

    def write(self, entries: Mapping[str, bytes]) -> None:
        """Store images in one transaction, enlarging the map if needed; see :class:`Writer`."""
        while True:
            try:
                with self._environment.begin(write=True) as transaction:
                    for key, data in entries.items():
                        transaction.put(key.encode("ascii"), data)
                return
            except lmdb.MapFullError:
                self._environment.set_mapsize(2 * self._environment.info()["map_size"])
            except lmdb.Error as error:
                raise OSError(str(error)) from error

    def close(self) -> dict[str, Any]:
        """See :meth:`Writer.close`."""
        facts = lmdb_facts(self._environment)
        self._environment.close()
        return {"lmdb": facts}


class FolderWriter(Writer):
    """Writes PNG files below a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def write(self, entries: Mapping[str, bytes]) -> None:
        """Write a file for each image; see :class:`Writer`."""
        for key, data in entries.items():
            path = self._folder / f"{key}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)

    def close(self) -> dict[str, Any]:
        """See :meth:`Writer.close`."""
        return {}
