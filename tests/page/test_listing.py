"""What the list of files and the status line say."""

import time
from html.parser import HTMLParser
from pathlib import Path

import pytest
from page_tools import photo

from cir_page.listing import EMPTY, about, list_of_files, status_line
from cir_page.session import Session


class Texts(HTMLParser):
    """The tags and the text of a piece of HTML."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.text += data

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture
def session(tmp_path):
    session = Session(tmp_path / "visitor")
    for name in ("a.jpg", "<img src=x>{{b}}.jpg"):
        photo((64, 48)).save(tmp_path / "upload", "JPEG", quality=30)
        session.add(tmp_path / "upload", name)
    return session


def unknown(item):
    return None


def known(item):
    return item.pixels / 1000


def test_without_files_the_list_says_what_to_do(tmp_path):
    session = Session(tmp_path / "visitor")
    assert list_of_files(session, unknown) == EMPTY
    assert status_line(session, unknown) == ""


def test_each_file_has_its_quality_and_grid(session):
    listed = Texts(list_of_files(session, unknown))
    assert len(listed.all("li")) == 2
    assert listed.text.count("64 × 48 · JPEG quality 30, blocks from the corner") == 2
    assert "about" not in listed.text


def test_names_are_text_not_html(session):
    session.items[1].before = session.items[1].result = Path("/tmp/x/<b>.png")
    session.items[1].state = "restored"
    listed = Texts(list_of_files(session, unknown))
    assert listed.all("img") == listed.all("b") == []
    assert "<img src=x>{{b}}.jpg" in listed.text
    (link,) = listed.all("a")
    assert link == {"href": "gradio_api/file=/tmp/x/%3Cb%3E.png", "download": "<b>.png"}
    assert listed.all("button")[0]["data-file"] == "1"


def test_the_time_is_told_before(session):
    assert status_line(session, unknown) == "2 files, 0.0 MP"
    assert status_line(session, known) == "2 files, 0.0 MP: restoring takes about 6 s"
    assert Texts(list_of_files(session, known)).text.count("ready, about 3 s") == 2


def test_progress_and_the_time_that_is_left(session):
    session.start()
    assert status_line(session, known) == "Waiting for its turn"
    first = session.items[0]
    first.state = "restoring"
    assert status_line(session, known) == "Restoring a.jpg, about 6 s left"
    first.share, first.started = 0.25, time.monotonic() - 10
    assert status_line(session, known) == "Restoring a.jpg, about 33 s left"
    assert status_line(session, unknown) == "Restoring a.jpg"
    listed = Texts(list_of_files(session, known))
    assert listed.all("progress")[0]["value"] == "25"
    assert "25 %" in listed.text
    first.share = 1.0
    assert "writing" in Texts(list_of_files(session, known)).text


def test_failures_and_warnings_are_beside_the_file(session, tmp_path):
    (tmp_path / "upload").write_text("no picture")
    session.add(tmp_path / "upload", "text.jpg")
    session.items[0].warnings = ("dropped the comment",)
    rows = list_of_files(session, unknown).split("<li")[1:]
    assert "warning: a.jpg: dropped the comment" in rows[0]
    assert "text.jpg: cannot be read as an image" in rows[2]
    assert not rows[1].count('class="note"')


def test_cancelled_files_can_be_restored(session):
    session.start()
    session.stop()
    assert "cancelled" in list_of_files(session, unknown)
    assert status_line(session, known).startswith("2 files")


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.2, "about 1 s"), (80, "about 80 s"), (95, "about 2 min"), (7200, "about 2 h")],
)
def test_estimates_in_words(seconds, words):
    assert about(seconds) == words
