"""The page in a real browser, which reaches no other machine, against the command."""

import io
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import zipfile
from urllib.parse import urlsplit

import pytest
from page_tools import photo, write_pictures
from PIL import Image

from cir_cli import restore

sync_api = pytest.importorskip("playwright.sync_api")
pytest.importorskip("gradio")

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
BROWSER = next(filter(None, map(shutil.which, BROWSERS)), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason=f"none of {', '.join(BROWSERS)} is there")

TIMEOUT = 60_000
"""Milliseconds; nothing here takes long, but the machine may be busy."""


START = """
import sys

def report(event, arguments):
    reached = {"socket.getaddrinfo": arguments[:2], "socket.connect": arguments[1:2]}.get(event)
    if reached and "127.0.0.1" not in str(reached):
        print("reaches", reached)

sys.addaudithook(report)
from cir_cli.main import main
sys.exit(main(sys.argv[1:]))
"""
"""The command, which prints when it reaches another machine."""


class Server:
    """``basicsr page`` in a process of its own, whose temporary folder is watched."""

    def __init__(self, folder):
        self.temporary = folder / "temporary"
        self.temporary.mkdir()
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.process = subprocess.Popen(
            [sys.executable, "-c", START, "page", "--no-browser", "--port", str(self.port)],
            cwd=folder,
            # a proxy that is not there must not be asked for the page itself
            env={**os.environ, "TMPDIR": str(self.temporary), "HTTP_PROXY": "http://127.0.0.1:9"},
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        self.address = f"http://127.0.0.1:{self.port}/"
        line = self.process.stdout.readline()
        if self.address not in line:
            self.process.kill()
            pytest.fail(line + self.process.communicate()[0])

    def files(self):
        """Return what is in the temporary folder, besides the folders of the page itself."""
        return [path for path in self.temporary.rglob("*") if path.is_file()]

    def end(self, how):
        self.process.send_signal(how)
        told, _ = self.process.communicate(timeout=60)
        return self.process.returncode, told


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    server = Server(tmp_path_factory.mktemp("server"))
    yield server
    server.process.kill()
    server.process.wait()


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def visit(server, browser):
    """Open the page in a new window; fail if it asks another machine for anything."""
    contexts, elsewhere, broken = [], [], []

    def check(route):
        parts = urlsplit(route.request.url)
        if parts.scheme in ("data", "blob") or parts.netloc == f"127.0.0.1:{server.port}":
            route.continue_()
        else:
            elsewhere.append(route.request.url)
            route.abort()

    def visit(address=server.address, **settings):
        context = browser.new_context(**settings)
        context.set_default_timeout(TIMEOUT)
        contexts.append(context)
        context.route("**/*", check)
        page = context.new_page()
        page.on("pageerror", lambda error: broken.append(str(error)))
        page.on("dialog", lambda dialog: broken.append(dialog.message))
        page.goto(address)
        return page

    yield visit
    for context in contexts:
        context.close()
    assert elsewhere == []
    assert broken == []


def upload(page, *paths):
    page.locator("#upload input[type=file]").set_input_files([str(path) for path in paths])
    for path in paths:
        page.locator("#files li", has_text=path.name).first.wait_for()


def press(page, name):
    page.get_by_role("button", name=name, exact=True).click()


def row(page, name):
    return page.locator("#files li", has=page.get_by_text(name, exact=True))


def downloaded(page, click):
    with page.expect_download() as download:
        click()
    content = download.value.path().read_bytes()
    return download.value.suggested_filename, content


def pictures(page):
    """Return the address, width and height of both pictures, once they are there."""
    page.wait_for_function(
        "() => { const all = [...document.querySelectorAll('#pair img')];"
        " return all.length == 2 && all.every(img => img.complete && img.naturalWidth) }"
    )
    return page.locator("#pair img").evaluate_all(
        "all => all.map(img => [img.src, img.naturalWidth, img.naturalHeight])"
    )


def test_results_are_those_of_the_command(visit, tmp_path, monkeypatch, capsys):
    folder = write_pictures(tmp_path / "in")
    strange = folder / "{{x}}${1}<img src=y onerror=alert(1)>.jpg"
    shutil.copy(folder / "plain.jpg", strange)
    files = sorted(folder.iterdir())
    monkeypatch.chdir(folder)
    restore.run([*(path.name for path in files), "-o", str(tmp_path / "out")])
    told = capsys.readouterr().err
    page = visit()
    upload(page, *files)
    assert "JPEG quality 40, blocks from the corner" in row(page, "turned (1).jpg").inner_text()
    press(page, "Restore")
    name, archive = downloaded(page, lambda: press(page, "Download all (ZIP)"))
    assert name == "restored.zip"
    status = page.locator("#status").inner_text()
    assert status.split(";")[0] == told.splitlines()[-1].split(";")[0]
    written = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    with zipfile.ZipFile(io.BytesIO(archive)) as file:
        zipped = {name: file.read(name) for name in file.namelist() if name != "summary.csv"}
        assert file.read("summary.csv").startswith(b"file,state,found,")
    assert zipped == written
    for path in files:
        beside = row(page, path.name).inner_text()
        errors = [line for line in told.splitlines() if line.startswith(f"error: {path.name}: ")]
        warnings = [line for line in told.splitlines() if line.startswith(f"warning: {path.name}")]
        assert all(line.removeprefix("error: ") in beside for line in errors)
        assert all(line in beside for line in warnings)
        assert ("failed" in beside) == bool(errors)
    link = row(page, "turned (1).jpg").get_by_role("link", name="Download")
    assert downloaded(page, link.click) == ("turned (1).png", written["turned (1).png"])


def test_the_slider_shows_both_pictures_as_they_are(visit, tmp_path):
    photo((320, 200)).save(tmp_path / "a.jpg", quality=10)
    photo((200, 320)).save(tmp_path / "b.jpg", quality=10)
    page = visit()
    upload(page, tmp_path / "a.jpg", tmp_path / "b.jpg")
    press(page, "Restore")
    page.get_by_role("button", name="Download all (ZIP)").wait_for()
    shown = pictures(page)
    assert [size for _, *size in shown] == [[320, 200], [320, 200]]
    before, after = (
        Image.open(io.BytesIO(page.request.get(address).body())) for address, *_ in shown
    )
    with Image.open(tmp_path / "a.jpg") as jpeg:
        assert before.tobytes() == jpeg.tobytes()
    link = row(page, "a.jpg").get_by_role("link", name="Download")
    _, content = downloaded(page, link.click)
    assert after.tobytes() == Image.open(io.BytesIO(content)).tobytes() != before.tobytes()

    handle = page.locator("#pair [data-testid=slider] .icon-wrap")
    at = handle.bounding_box()
    page.mouse.move(at["x"] + at["width"] / 2, at["y"] + at["height"] / 2)
    page.mouse.down()
    page.mouse.move(at["x"] - 100, at["y"], steps=4)
    page.mouse.up()
    assert handle.bounding_box()["x"] < at["x"] - 60
    picture = page.locator("#pair img").first
    width = picture.bounding_box()["width"]
    picture.hover(position={"x": 40, "y": 60})
    for _ in range(5):
        page.mouse.wheel(0, -100)
    page.wait_for_function(
        "width => document.querySelector('#pair img').getBoundingClientRect().width > width",
        arg=1.2 * width,
    )

    press(page, "b.jpg")
    page.get_by_text("Before and after: b.jpg").wait_for()
    page.wait_for_function("() => document.querySelector('#pair img').naturalHeight == 320")


def test_equal_files_and_hidden_ones_are_taken(visit, tmp_path):
    """The server's temporary folder lies below its current one, where Gradio refuses dots."""
    paths = [tmp_path / name for name in ("x/a.jpg", "y/a.jpg", ".b.jpg")]
    for path in paths:
        path.parent.mkdir(exist_ok=True)
        photo().save(path, quality=30)
    page = visit()
    upload(page, *paths)
    press(page, "Restore")
    _, archive = downloaded(page, lambda: press(page, "Download all (ZIP)"))
    with zipfile.ZipFile(io.BytesIO(archive)) as file:
        assert len(file.namelist()) == 4
    link = row(page, ".b.jpg").get_by_role("link", name="Download")
    assert downloaded(page, link.click)[1][1:4] == b"PNG"


def test_settings_and_formats(visit, tmp_path):
    source = tmp_path / "a.jpg"
    photo().save(source, quality=30)
    page = visit()
    upload(page, source)
    page.get_by_role("button", name="More settings").click()
    page.get_by_label("Strength by the file").uncheck()
    page.locator("input[type=number]").fill("0.9")
    page.get_by_label("Consistency").uncheck()
    flags = ["--strength", "0.9", "--no-consistency"]
    for network, label, name in (("Fast", "WebP", "a.webp"), ("Best", "JPEG", "a.jpg")):
        page.get_by_label(network, exact=True).check()
        page.get_by_label(label, exact=True).check()
        press(page, "Restore")
        target = tmp_path / "out" / name
        target.parent.mkdir(exist_ok=True)
        assert restore.run([str(source), "-o", str(target), *flags]) == 0
        link = page.locator(f'#files a[download="{name}"]')
        assert downloaded(page, link.click) == (name, target.read_bytes())
        flags = ["--best", "--no-consistency"]  # whose weights take no strength


def test_the_sample_is_one_click_away(visit):
    page = visit(viewport={"width": 390, "height": 844}, color_scheme="dark")
    press(page, "Try a sample picture")
    row(page, "chelsea.jpg").get_by_text("JPEG quality 10").wait_for()
    assert pictures(page)[0][1:] == [451, 300]
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    press(page, "Clear")
    page.get_by_text("Drop JPEGs into the field").wait_for()


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    path = tmp_path_factory.mktemp("large") / "large.jpg"
    photo((512, 384), (0, 0)).resize((4000, 3000)).save(path, quality=30)
    return path


def start(page, large):
    """Start a file that takes long, and return once the network works on it."""
    page.get_by_label("Best", exact=True).check()
    upload(page, large)
    press(page, "Restore")
    page.locator("#files progress").wait_for()


def test_a_large_picture_can_be_cancelled(visit, large, tmp_path):
    photo().save(tmp_path / "small.jpg", quality=30)
    page = visit()
    upload(page, large)
    page.get_by_text(re.compile("1 file, 12.0 MP: restoring takes about")).wait_for()
    start(page, large)
    page.get_by_text(re.compile(r"Restoring large\.jpg, about \d+ \w+ left")).wait_for()
    press(page, "Cancel")
    row(page, "large.jpg").get_by_text("cancelled").wait_for()
    page.get_by_role("button", name="Restore", exact=True).wait_for()
    assert page.locator("#files a").count() == 0


def test_two_people_wait_their_turn_and_a_closed_tab_stops(visit, large, server, tmp_path):
    photo().save(tmp_path / "small.jpg", quality=30)
    first, second = visit(), visit()
    start(first, large)
    upload(second, tmp_path / "small.jpg")
    press(second, "Restore")
    second.get_by_text("Waiting for its turn").wait_for()
    second.wait_for_timeout(1000)
    assert "Waiting for its turn" in second.locator("#status").inner_text()
    assert "waits for its turn" in row(second, "small.jpg").inner_text()
    first.close()
    row(second, "small.jpg").get_by_text("restored").wait_for()
    second.wait_for_timeout(500)
    left = {path.name for path in server.files() if path.stat().st_size > 100_000}
    assert left == set()  # the large file and what was made of it


def test_an_interrupt_ends_the_job_and_deletes_the_files(visit, large, server):
    start(visit(), large)
    assert server.files()
    assert server.end(signal.SIGINT) == (0, "")  # and it has reached no other machine
    assert list(server.temporary.iterdir()) == []
