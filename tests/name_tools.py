"""Names that files can have."""

import os
from pathlib import Path

import pytest
from hypothesis import strategies as st


def _as_name(data: bytes) -> str:
    return os.fsdecode(data.translate(None, b"/\0") or b"x")


_ALIKE = st.text("aAéÉße\u0301._s01~% \n\r\t\"'#([{,)]}\\\ufeff\u2028\U0001f600", min_size=1)

file_names = st.one_of(
    st.binary(min_size=1, max_size=255).map(_as_name),
    _ALIKE,
    st.tuples(_ALIKE, st.integers(1, 255)).map(lambda pair: (pair[0] * 255)[: pair[1]]),
)
"""Every name of a file, and often names that are nearly alike."""

file_paths = st.lists(file_names, min_size=1, max_size=3).map("/".join)


def not_utf8(folder, name=b"caf\xe9"):
    """A path in a folder, of a name that is not UTF-8; skips where there can be none."""
    path = Path(folder) / os.fsdecode(name)
    try:
        path.touch()
    except OSError:
        pytest.skip("this file system takes names in UTF-8 only")
    path.unlink()
    return path
