"""Names of files: short, distinct, printable, and paths with a tilde."""

import os
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from name_tools import file_names

from cir_host.file_names import expanded, folded, printable, short_name
from cir_host.files import read_regular

ANY_TEXT = st.text(st.characters(exclude_categories=()))


@given(st.lists(file_names, unique=True), st.sampled_from(["", ".png", "_meta_info.txt"]))
def test_short_names_fit_and_stay_distinct(names, ending):
    short = [short_name(name, ending) for name in names]
    for name, made in zip(names, short, strict=True):
        assert len(os.fsencode(made)) <= 255
        assert made.endswith(ending)
        if len(os.fsencode(name + ending)) <= 255:
            assert made == name + ending
    assert len(set(short)) == len(names)


@pytest.mark.parametrize("name", ["x" * 300, "漢" * 90, os.fsdecode(b"\xe9" * 300), "e\u0301" * 99])
def test_a_short_name_is_cut_between_characters(name):
    short = short_name(name, ".png")
    begin, _, digest = short.rpartition("~")
    assert 200 < len(os.fsencode(short)) <= 255
    assert name.startswith(begin)
    assert len(digest) == len("0123456789abcdef.png")


@given(ANY_TEXT)
def test_what_file_systems_take_for_one_name_is_folded_alike(name):
    alike = folded(name)
    for form in ("NFC", "NFD"):
        assert folded(unicodedata.normalize(form, name)) == alike
    assert folded(name.casefold()) == alike


@given(ANY_TEXT)
def test_printable_text_is_one_line_of_utf8(text):
    shown = printable(text)
    assert shown.isprintable()
    shown.encode()
    if text.isprintable():
        assert shown == text


def test_a_tilde_is_a_home_unless_it_is_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert expanded("~/x") == tmp_path / "home/x"
    assert str(expanded("~no_such_user/x")) == "~no_such_user/x"
    (tmp_path / "~").mkdir()
    (tmp_path / "~/x").touch()
    assert str(expanded("~/x")) == "~/x"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_only_regular_files_are_read(tmp_path):
    (tmp_path / "a").write_bytes(b"content")
    assert read_regular(tmp_path / "a") == b"content"
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zero").symlink_to("/dev/zero")
    for name in ("pipe", "zero"):
        with pytest.raises(OSError, match="a pipe or device"):
            read_regular(tmp_path / name)
