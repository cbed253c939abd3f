"""Images in an LMDB in BasicSR's layout."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lmdb

from cir_data.storage.image_source import ImageSource, stem_of
from cir_data.storage.meta_info import read_meta_info
from cir_host.errors import UserError

LMDB_SUFFIX = ".lmdb"

MANIFEST = "prepare.json"
"""The file in which ``basicsr prepare`` records its settings and facts of the LMDB."""


def is_lmdb(root: str | Path) -> bool:
    """Whether a root is an LMDB, by its suffix.

    Example:
        >>> is_lmdb("datasets/DF2K.lmdb"), is_lmdb("datasets/DF2K")
        (True, False)
    """
    return Path(root).suffix == LMDB_SUFFIX


class LmdbSource(ImageSource):
    """An LMDB in BasicSR's layout.

    The key of an encoded image is its name without suffix. ``meta_info.txt`` in the LMDB's folder
    has a line ``name.png (height,width,channels) compression_level`` for each image. An LMDB that
    ``basicsr prepare`` made must not have changed since, and may hold raw pixels instead.
    """

    def __init__(self, root: Path) -> None:
        if not (root / "data.mdb").is_file():
            raise UserError(f"{root}: no LMDB there (it would be a folder with a file data.mdb)")
        super().__init__(root)
        self._location = root.resolve()

    def names(self, listed: Sequence[str] | None = None) -> Sequence[str]:
        """Return the names in ``meta_info.txt``, or those listed; see :meth:`ImageSource.names`."""
        held = read_meta_info(self.root / "meta_info.txt")
        if not listed:
            return held
        keys = {stem_of(name) for name in held}
        return self._find(listed, lambda name: stem_of(name) in keys)

    def read(self, name: str) -> memoryview:
        """Return a view of the image in the LMDB; see :meth:`ImageSource.read`."""
        try:
            with _environment(self._location).begin(buffers=True) as transaction:
                data: memoryview | None = transaction.get(os.fsencode(stem_of(name)))
        except lmdb.Error as error:
            raise UserError(f"{self.root}: cannot be read: {error}") from error
        if data is None:
            raise UserError(f"{self.root}: no key {stem_of(name)!r}, which its meta_info.txt lists")
        return data


def lmdb_facts(environment: Any) -> dict[str, int]:
    """Return facts of an open LMDB that change with every write."""
    info, stat = environment.info(), environment.stat()
    return {
        "entries": stat["entries"],
        "bytes": (info["last_pgno"] + 1) * stat["psize"],
        "transactions": info["last_txnid"],
    }


_environments: dict[Path, tuple[int, Any]] = {}
"""Open LMDBs with the process that opened them: a process must open each only once."""


def _environment(path: Path) -> Any:
    """Open an LMDB on first use in this process; a forked worker opens it again."""
    opened_by, environment = _environments.get(path, (None, None))
    if opened_by != os.getpid():
        if environment is not None:
            environment.close()
        environment = _open(path)
        _environments[path] = os.getpid(), environment
    return environment


def _open(path: Path) -> Any:
    try:
        environment = lmdb.open(
            os.fsencode(path),
            readonly=True,
            lock=False,
            readahead=False,
            meminit=False,
            max_spare_txns=1,
        )
    except lmdb.Error as error:
        raise UserError(
            f"{path}: the LMDB cannot be opened ({error}); copy or make it again"
        ) from error
    facts = lmdb_facts(environment)
    if (path / "data.mdb").stat().st_size < facts["bytes"]:
        environment.close()
        # reading beyond the end of a mapped file would kill the process
        raise UserError(f"{path}: the LMDB is truncated; copy or make it again")
    made = _manifest_facts(path / MANIFEST)
    changed = [key for key in facts if made and made.get(key) != facts[key]]
    if changed:
        environment.close()
        raise UserError(
            f"{path}: the LMDB was changed after `basicsr prepare` made it ({changed[0]}:"
            f" {facts[changed[0]]}, not {made.get(changed[0])}); copy or make it again"
        )
    return environment


def _manifest_facts(path: Path) -> dict[str, int]:
    try:
        facts: dict[str, int] = json.loads(path.read_text(encoding="utf-8"))["lmdb"]
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: cannot be read ({error}); copy or make the LMDB again") from error
    return facts
