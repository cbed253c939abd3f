"""The server on this machine: from the free port to the deleted files."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any

from cir_host.errors import UserError
from cir_host.extras import needs_extra
from cir_page.session import temporary_folder

if TYPE_CHECKING:
    from cir_page.layout import Page

HOST = "127.0.0.1"
"""Nobody else on the network reaches it."""

_ENDINGS = ("SIGINT", "SIGTERM", "SIGHUP")
"""Signals that end the program, if the system has them: Ctrl-C, kill, a closed terminal."""


def serve(port: int | None, announce: Callable[[str], None]) -> None:
    """Show the page until the program is interrupted or terminated, then delete all its files.

    Args:
        port: Of this machine; None: the first free one from 7860 on.
        announce: Gets the address when the page can be opened.

    Raises:
        UserError: Gradio is not installed, or the port cannot be used.
    """
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    for name in ("NO_PROXY", "no_proxy"):  # Gradio asks its own server at the start
        os.environ[name] = ",".join(filter(None, (os.environ.get(name), HOST)))
    with _end() as end, temporary_folder() as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder  # also for what Gradio does when it is imported
        needs_extra("gradio", "page", "basicsr page")
        from cir_page.layout import Page

        page = Page(Path(folder))
        try:
            announce(_launched(page, port))
            while not end.wait(1):  # Windows does not interrupt a wait without an end
                pass
        finally:
            page.close(verbose=False)


def _launched(page: "Page", port: int | None) -> str:
    """Serve the page in threads of its own; return the address."""
    try:
        _, address, _ = page.launch(
            server_name=HOST, server_port=port, prevent_thread_lock=True, quiet=True
        )
    except OSError as error:
        raise UserError(
            f"--port {port}: cannot be used; another program may have it: give another port"
            if port
            else "no port from 7860 to 7959 is free; give another with --port"
        ) from error
    return str(address)


@contextmanager
def _end() -> Iterator[Event]:
    """Yield an event that is set by the first signal to end; the second one ends as usual."""
    end = Event()
    earlier: dict[signal.Signals, Any] = {}

    def handle(number: int, frame: object) -> None:
        end.set()
        put_back()

    def put_back() -> None:
        while earlier:
            signal.signal(*earlier.popitem())

    for name in _ENDINGS:
        if number := getattr(signal, name, None):
            earlier[number] = signal.signal(number, handle)
    try:
        yield end
    finally:
        put_back()
