"""``basicsr page``: open the local page."""

import webbrowser

from cir_cli import parsers
from cir_cli.heap import keep_freed_memory
from cir_page.server import serve


def run(arguments: list[str]) -> None:
    """Show the page until Ctrl-C.

    Raises:
        UserError: Gradio is not installed, or the port cannot be used.
    """
    flags = parsers.page().parse_args(arguments)
    keep_freed_memory()

    def announce(address: str) -> None:
        print(f"The page is at {address} (Ctrl-C ends it and deletes its files)", flush=True)
        if flags.browser:
            webbrowser.open(address)

    serve(flags.port, announce)
