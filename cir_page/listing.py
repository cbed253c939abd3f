"""The list of files on the page, and its status line."""

from collections.abc import Callable, Iterable
from html import escape
from urllib.parse import quote

from cir_host.file_names import printable
from cir_page.session import Item, Session

Estimate = Callable[[Item], float | None]
"""Tells how many seconds a file takes; None if that is not known."""

EMPTY = '<p class="empty">Drop JPEGs into the field, or try the sample picture.</p>'
"""The list without files."""


def about(seconds: float) -> str:
    """Return an estimate in words.

    Example:
        >>> about(0.4), about(12.4), about(200), about(8000)
        ('about 1 s', 'about 12 s', 'about 3 min', 'about 2 h')
    """
    for size, unit in ((3600, "h"), (60, "min")):
        if seconds >= 1.5 * size:
            return f"about {seconds / size:.0f} {unit}"
    return f"about {max(1, round(seconds))} s"


def status_line(session: Session, estimate: Estimate) -> str:
    """Return one line on all files, as plain text."""
    items = session.items
    current = next((item for item in items if item.state == "restoring"), None)
    waiting = [item for item in items if item.state == "waiting"]
    if current is not None and session.stopping:
        return f"Cancelling {printable(current.name)}"
    if current is not None:
        left = current.remaining()
        now = estimate(current) if left is None else left
        later = _sum(map(estimate, waiting))
        time = "" if now is None or later is None else f", {about(now + later)} left"
        return f"Restoring {printable(current.name)}{time}"
    if waiting:
        return "Waiting for its turn"
    ready = [items[index] for index in session.to_restore()]
    if not ready:
        return session.summary
    pixels = sum(item.pixels for item in ready)
    count = f"{len(ready)} file{'s' * (len(ready) > 1)}, {pixels / 1e6:.1f} MP"
    seconds = _sum(map(estimate, ready))
    return count if seconds is None else f"{count}: restoring takes {about(seconds)}"


def _sum(seconds: Iterable[float | None]) -> float | None:
    """Add estimates; None if one is not known."""
    known = list(seconds)
    return None if None in known else sum(filter(None, known))


def list_of_files(session: Session, estimate: Estimate) -> str:
    """Return a line of HTML for each file.

    A button with ``data-file`` and the index of the file shows its picture.
    """
    rows = [
        _row(index, item, item is session.shown, estimate)
        for index, item in enumerate(session.items)
    ]
    return f"<ol>{''.join(rows)}</ol>" if rows else EMPTY


def _row(index: int, item: Item, shown: bool, estimate: Estimate) -> str:
    name = _text(item.name)
    if item.before is not None:
        name = (
            f'<button type="button" data-file="{index}" aria-pressed="{str(shown).lower()}"'
            f' title="Show before and after">{name}</button>'
        )
    size = f"{item.facts.width} × {item.facts.height}" if item.facts else ""
    found = "" if item.state == "copied" else item.found  # its line says it
    facts = " · ".join(_text(fact) for fact in (size, found) if fact)
    state = "waits for its turn" if item.state == "waiting" else str(item.state)
    if item.state in ("ready", "waiting") and (seconds := estimate(item)) is not None:
        state += f", {about(seconds)}"
    if item.state == "restoring":
        percent = round(100 * item.share)
        state = (
            f'<progress max="100" value="{percent}" aria-label="{_text(item.name)}"></progress>'
            + (f" {percent} %" if percent < 100 else " writing")
        )
    if item.result is not None and item.state in ("restored", "copied"):
        link = quote(item.result.as_posix())
        state += (
            f' <a href="gradio_api/file={link}" download="{_text(item.result.name)}">Download</a>'
        )
    notes = [item.line] if item.state in ("failed", "copied") else []
    notes += [f"warning: {item.name}: {warning}" for warning in item.warnings]
    told = "".join(f'<div class="note">{_text(note)}</div>' for note in notes)
    return (
        f'<li class="{item.state}{" shown" * shown}"><div class="name">{name}</div>'
        f'<div class="facts">{facts}</div><div class="state">{state}</div>{told}</li>'
    )


def _text(text: str) -> str:
    return escape(printable(text))
