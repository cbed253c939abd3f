"""Names that files can have."""

import os
from pathlib import Path
from unicodedata import normalize

import pytest
from hypothesis import strategies as st


def _as_name(data: bytes) -> str:
    return os.fsdecode(data.translate(None, b"/\0") or b"x")


_ALIKE = st.text("aAéÉße\u0301._s01~% \n\r\t\"'#([{,)]}\\\ufeff\u2028\U0001f600", min_size=1)

file_names = st.one_of(
    st.binary(min_size=1, max_size=255).map(_as_name),
    st.tuples(_ALIKE, st.sampled_from([".png", ".PNG", ".bmp", ".png.png"])).map("".join),
    _ALIKE,
    st.tuples(_ALIKE, st.integers(1, 255)).map(lambda pair: (pair[0] * 255)[: pair[1]]),
)
"""Every name of a file, and often names that are nearly alike."""

file_paths = st.lists(file_names, min_size=1, max_size=3).map("/".join)


def _with_twins(drawn):
    paths = []
    for path, has_twins in drawn:
        paths += [path, path.swapcase(), normalize("NFD", path)] if has_twins else [path]
    return list(dict.fromkeys(paths))


different_paths = st.lists(st.tuples(file_paths, st.booleans())).map(_with_twins)
"""Often with paths that some file system takes for one."""


def not_utf8(folder, name=b"caf\xe9"):
    """A path in a folder, of a name that is not UTF-8; skips where there can be none."""
    path = Path(folder) / os.fsdecode(name)
    try:
        path.touch()
    except OSError:
        pytest.skip("this file system takes names in UTF-8 only")
    path.unlink()
    return path
