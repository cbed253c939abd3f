"""Starting and ending the page without a browser."""

import os
import re
import signal
import socket
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from page_tools import photo

import cir_page
from cir_cli.main import main
from cir_page.server import _end

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def environment(monkeypatch, tmp_path):
    """Put back what the server sets for its own process."""
    for name in ("GRADIO_ANALYTICS_ENABLED", "GRADIO_TEMP_DIR", "NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))


def test_without_gradio_one_line_says_what_to_install(monkeypatch, capsys, tmp_path):
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert main(["page", "--no-browser"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("basicsr page: error: basicsr page needs the package gradio")
    assert line.endswith("install it with: pip install 'basicsr-cir[page]'")
    assert list(tmp_path.iterdir()) == []


def test_a_taken_port_is_one_line(capsys, tmp_path):
    pytest.importorskip("gradio")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert main(["page", "--no-browser", "--port", str(port)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    (line,) = err.splitlines()
    assert line == (
        f"basicsr page: error: --port {port}: cannot be used; another program may have it: give"
        " another port"
    )
    assert list(tmp_path.glob("basicsr-page-*")) == []


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_the_first_signal_ends_and_the_second_is_as_usual(name):
    number = getattr(signal, name)
    earlier = signal.getsignal(number)
    with _end() as end:
        assert not end.is_set()
        os.kill(os.getpid(), number)
        assert end.wait(10)
        assert signal.getsignal(number) == earlier
    with _end():
        assert signal.getsignal(number) != earlier
    assert signal.getsignal(number) == earlier


def test_the_app_of_the_documentation(monkeypatch, tmp_path):
    gradio = pytest.importorskip("gradio")
    launched = {}
    monkeypatch.setattr(gradio.Blocks, "launch", lambda self, **given: launched.update(given))
    text = (ROOT / "docs" / "page.md").read_text(encoding="utf-8")
    (app,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(app.splitlines()) <= 5
    names = {}
    exec(app, names)
    page = names["page"]
    assert isinstance(page, gradio.Blocks)
    assert page.analytics_enabled is False
    off = ("share", "run_history", "ssr_mode", "mcp_server", "pwa", "enable_monitoring")
    assert not any(launched[name] for name in off)
    assert "@font-face" not in launched["theme"]._get_theme_css()
    assert "url(" not in launched["css"]
    page.launch(share=True)
    assert launched["share"] is True  # the host decides
    (folder,) = tmp_path.glob("basicsr-page-*")
    assert os.environ["GRADIO_TEMP_DIR"] == str(folder)
    session = page._session(SimpleNamespace(session_hash="somebody"))
    photo().save(tmp_path / "a.jpg")
    session.add(tmp_path / "a.jpg", "a.jpg")
    session.start()
    page.close()
    assert session.items[0].state == "cancelled"
    assert not folder.exists()


def test_gradio_writes_no_files_beside_the_code():
    pytest.importorskip("cir_page.layout")
    assert list(Path(cir_page.__file__).parent.glob("*.pyi")) == []


def test_an_upload_of_two_visitors_is_taken_twice_and_deleted_with_them(tmp_path):
    """Gradio gives both the same path; the second may arrive before the first is taken."""
    layout = pytest.importorskip("cir_page.layout")
    page = layout.Page(tmp_path / "page")
    upload = tmp_path / "page/digest/a.jpg"
    upload.parent.mkdir(parents=True)
    photo().save(upload)
    for visitor in ("one", "other", "other"):
        request = SimpleNamespace(session_hash=visitor)
        page._added([{"path": str(upload), "orig_name": "a.jpg"}], request)
    one, other = page._sessions.values()
    assert [item.name for item in (*one.items, *other.items)] == ["a.jpg", "a.jpg", "a (2).jpg"]
    one.clear()
    assert not upload.exists()
    assert all(item.source.read_bytes() for item in other.items)
    page.close()
    assert not [path for path in (tmp_path / "page").rglob("*") if path.is_file()]
