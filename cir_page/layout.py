"""The page itself: what Gradio shows, and what happens on a click."""

import os
from collections.abc import Iterator
from html import escape
from importlib.resources import files
from pathlib import Path
from secrets import token_hex
from typing import Any

import gradio as gr

from cir_data.images.photographs import SHOWPIECES
from cir_model.restoring.consistency import can_hold
from cir_page.engine import Engine, Settings
from cir_page.listing import EMPTY, list_of_files, status_line
from cir_page.session import LARGEST_UPLOAD, Item, Session, temporary_folder

TITLE = "Restore JPEGs"

_FAST, _BEST = "Fast", "Best"

_FORMATS = {"PNG": "png", "WebP": "webp", "JPEG": "jpeg"}

_LARGE = 1_000_000
"""Pixels from which on the speed is measured before a picture is restored."""

_SYSTEM_FONTS = ("system-ui", "sans-serif")

_ON_CLICK = """
element.addEventListener("click", event => {
  const button = event.target.closest("[data-file]");
  if (button) trigger("select", {index: Number(button.dataset.file), value: ""});
});
"""


_INTRODUCTION = (
    "Removes the blocks and smears of JPEG compression. The pictures stay on the machine that runs"
    " this page, and are deleted when you close it."
)

_HINT = (
    "Drag the line to compare. Zoom with the wheel, or with two fingers; drag the zoomed picture to"
    " move it."
)


class Page(gr.Blocks):
    """The page. ``Page().launch()`` shows it.

    Args:
        folder: Where the files of all visitors are; None: a temporary folder, which is deleted by
            :meth:`close` or when the program ends. It becomes the value of ``GRADIO_TEMP_DIR``, so
            that Gradio uses no other folder.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._temporary = None
        if folder is None:
            self._temporary = temporary_folder()
            folder = Path(self._temporary.name)
        self._folder = folder
        os.environ["GRADIO_TEMP_DIR"] = str(self._folder)
        self._engine = Engine()
        self._sessions: dict[str, Session] = {}
        super().__init__(title=TITLE, analytics_enabled=False, fill_width=True)
        with self:
            gr.Markdown(f"# {TITLE}\n{_INTRODUCTION}")
            with gr.Row():
                with gr.Column(scale=1, min_width=300):
                    self._build_inputs()
                with gr.Column(scale=3, min_width=320):
                    self._build_results()
            self._connect()
        self.queue(default_concurrency_limit=None, api_open=False)

    def launch(self, **arguments: Any) -> Any:  # type: ignore[override]  # same, by name only
        """Show the page; takes the arguments of ``gradio.Blocks.launch``.

        Unless they say otherwise, nothing is fetched from other machines, or sent there.
        """
        theme = gr.themes.Default(
            primary_hue="blue", font=_SYSTEM_FONTS, font_mono=("ui-monospace", "monospace")
        ).set(
            block_info_text_color="*neutral_600",
            block_info_text_color_dark="*neutral_300",
            body_text_color_subdued="*neutral_600",
            body_text_color_subdued_dark="*neutral_300",
        )
        usual = {
            "theme": theme,
            "css": (files("cir_page") / "page.css").read_text(encoding="utf-8"),
            "footer_links": [],
            "share": False,
            "ssr_mode": False,
            "mcp_server": False,
            "pwa": False,
            "enable_monitoring": False,
            "run_history": False,  # which would keep pictures in the browser
            "allowed_paths": [str(self._folder)],  # else Gradio refuses names that begin with a dot
            "max_file_size": 10 * LARGEST_UPLOAD,  # refuses all files that were dropped with it
        }
        return super().launch(**{**usual, **arguments})

    def close(self, verbose: bool = True) -> None:
        """Cancel what is being restored, stop serving, and delete the files of all visitors."""
        for session in self._sessions.values():
            session.close()
        super().close(verbose)
        if self._temporary is not None:
            self._temporary.cleanup()

    def _build_inputs(self) -> None:
        self._upload = gr.File(
            label="JPEGs and other pictures", file_count="multiple", height=150, elem_id="upload"
        )
        self._sample = gr.Button("Try a sample picture", size="sm")
        self._network = gr.Radio(
            [_FAST, _BEST],
            value=_FAST,
            label="Network",
            info="Best gains a little more and takes about six times as long.",
        )
        self._format = gr.Radio(
            list(_FORMATS),
            value="PNG",
            label="Format",
            info="PNG is lossless; WebP and JPEG are written at quality 95.",
        )
        with gr.Accordion("More settings", open=False):
            self._auto = gr.Checkbox(
                value=True,
                label="Strength by the file",
                info="From the JPEG quality of the file, else from its pixels.",
            )
            self._strength = gr.Slider(
                0,
                1,
                value=0.5,
                step=0.05,
                label="Strength",
                info="0 changes least, 1 most. Best does not react to it.",
                visible=False,
            )
            held = can_hold()
            self._consistency = gr.Checkbox(
                value=held,
                interactive=held,
                label="Consistency",
                info="Holds the result to what the JPEG file says of the original."
                if held
                else "Needs the package jpeglib.",
            )
            self._force = gr.Checkbox(
                label="Also restore clean files",
                info="Otherwise lossless files and JPEGs of quality 99 and above are copied.",
            )
        self._restore = gr.Button("Restore", variant="primary", interactive=False)
        with gr.Row():
            self._cancel = gr.Button("Cancel", variant="stop", visible=False)
            self._clear = gr.Button("Clear", visible=False)

    def _build_results(self) -> None:
        self._status = gr.HTML('<p role="status"></p>', elem_id="status", apply_default_css=False)
        self._files = gr.HTML(EMPTY, js_on_load=_ON_CLICK, elem_id="files", apply_default_css=False)
        with gr.Column(visible=False) as self._comparison:
            self._pair = gr.ImageSlider(
                buttons=["fullscreen"], interactive=False, max_height=640, elem_id="pair"
            )
            gr.HTML(_HINT, elem_id="hint", apply_default_css=False)
        self._all = gr.DownloadButton("Download all (ZIP)", visible=False, elem_id="all")

    def _connect(self) -> None:
        settings: list[Any] = [
            self._network,
            self._format,
            self._auto,
            self._strength,
            self._consistency,
            self._force,
        ]
        seen = [
            self._status,
            self._files,
            self._comparison,
            self._pair,
            self._all,
            self._restore,
            self._cancel,
            self._clear,
        ]
        now: dict[str, Any] = {"queue": False, "show_progress": "hidden"}
        later: dict[str, Any] = {"show_progress": "hidden", "concurrency_limit": None}
        one: dict[str, Any] = {"show_progress": "hidden", "concurrency_limit": 1}
        self._auto.change(
            lambda auto: gr.update(visible=not auto), self._auto, self._strength, **now
        )
        # not preprocessed, since that drops the names that the files have on the visitor's machine
        self._upload.upload(
            self._added, self._upload, [self._upload, *seen], preprocess=False, **now
        ).then(self._measured, None, seen, **later)
        for control in settings:
            control.change(self._chosen, settings, seen, **now)
        self._network.change(self._measured, None, seen, **later)
        sampled = self._sample.click(self._sampled, None, seen, **now)
        for begin in (self._restore.click, sampled.then):
            begin(self._chosen, settings, seen, **now).then(self._started, None, seen, **now).then(
                self._ran, None, seen, concurrency_id="network", **one
            )
        self._cancel.click(self._cancelled, None, seen, **now)
        self._clear.click(self._cleared, None, seen, **now)
        self._files.select(self._selected, None, seen, **now)
        self.unload(self._left)

    def _session(self, request: gr.Request) -> Session:
        key = request.session_hash or ""
        if key not in self._sessions:
            self._sessions[key] = Session(self._folder / f"visitor_{token_hex(8)}")
        return self._sessions[key]

    def _added(self, uploaded: list[dict[str, Any]], request: gr.Request) -> list[Any]:
        session = self._session(request)
        for file in uploaded:
            path = Path(file["path"]).resolve()
            if self._folder.resolve() in path.parents:  # others were not uploaded
                session.add(path, file.get("orig_name") or path.name)
        return [None, *self._seen(session)]

    def _sampled(self, request: gr.Request) -> list[Any]:
        session = self._session(request)
        piece = SHOWPIECES[0]
        path = session.folder / f"{piece.name}.jpg"
        path.write_bytes(piece.jpeg())
        session.add(path, path.name)
        return self._seen(session)

    def _chosen(
        self,
        network: str,
        file_format: str,
        auto: bool,
        strength: float,
        consistency: bool,
        force: bool,
        request: gr.Request,
    ) -> list[Any]:
        session = self._session(request)
        session.settings = Settings(
            best=network == _BEST,
            format=_FORMATS[file_format],
            strength=None if auto else strength,
            consistency=consistency,
            force=force,
        )
        return self._seen(session)

    def _measured(self, request: gr.Request) -> list[Any]:
        session = self._session(request)
        if sum(session.items[index].pixels for index in session.to_restore()) >= _LARGE:
            self._engine.measure(session.settings.best)
        return self._seen(session)

    def _started(self, request: gr.Request) -> list[Any]:
        session = self._session(request)
        session.start()
        return self._seen(session, pair=True)

    def _ran(self, request: gr.Request) -> Iterator[list[Any]]:
        session = self._session(request)
        shown = session.shown
        for _ in session.run(self._engine):
            yield self._seen(session, pair=session.shown is not shown)
            shown = session.shown
        yield self._seen(session, pair=True, archive=session.archive())

    def _cancelled(self, request: gr.Request) -> list[Any]:
        session = self._session(request)
        session.stop()
        return self._seen(session)

    def _cleared(self, request: gr.Request) -> list[Any]:
        session = self._session(request)
        session.clear()
        return self._seen(session, pair=True)

    def _selected(self, chosen: gr.SelectData, request: gr.Request) -> list[Any]:
        session = self._session(request)
        session.shown = session.items[chosen.index]
        return self._seen(session, pair=True)

    def _left(self, request: gr.Request) -> None:
        session = self._sessions.pop(request.session_hash or "", None)
        if session is not None:
            session.close()

    def _seen(self, session: Session, pair: bool = False, archive: Path | None = None) -> list[Any]:
        """Return the updates of what a visitor sees.

        Args:
            session: The visitor's files.
            pair: Whether other pictures are to be shown than before.
            archive: A new ZIP of all results.
        """

        def estimate(item: Item) -> float | None:
            return session.seconds(item, self._engine)

        shown, busy = session.shown, session.busy
        comparison = pictures = gr.skip()
        if pair and shown is not None and shown.before is not None:
            comparison = gr.update(visible=True)
            pictures = gr.update(
                value=(shown.before, shown.result), label=f"Before and after: {shown.name}"
            )
        elif pair:
            comparison, pictures = gr.update(visible=False), None
        archived = gr.update(value=archive, visible=True) if archive else gr.update(visible=False)
        return [
            f'<p role="status">{escape(status_line(session, estimate))}</p>',
            list_of_files(session, estimate),
            comparison,
            pictures,
            archived if archive or busy or not session.items else gr.skip(),
            gr.update(interactive=bool(session.to_restore()) and not busy),
            gr.update(visible=busy, interactive=not session.stopping),
            gr.update(visible=bool(session.items) and not busy),
        ]
