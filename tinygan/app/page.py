"""The page of ``tinygan-app``, by Gradio, and its server. Nothing is asked of other machines, and little is kept.

Photographs and pictures lie in memory and in a folder of this process, for an hour at most; the folder goes with it.
"""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from tinygan.app.search import SIGNS, Stages, View, first_stages, view_faces
from tinygan.detect.detector import MIN_SCORE
from tinygan.detect.picture import COLOURS, DROPPED
from tinygan.detections import Detections
from tinygan.errors import ConfigError, MissingDependency
from tinygan.files import write_atomically
from tinygan.formats.images import read_image
from tinygan.proposers import DEFAULT

TITLE = "tinygan: faces in a photograph"
KEPT_SECONDS = 3600  # how long a photograph and what was made of it lie in memory and on disk
_SESSIONS = 8  # browser tabs whose photographs lie in memory
_JPEG_QUALITY = 90

_LEAD = """\
# Faces in a photograph
Drop a photograph, or take one. A first stage proposes boxes; the second stage looks at each once more.
Nothing is sent on, and nothing is kept longer than an hour."""
_GUESS = "What super-resolution adds is a guess at what such faces look like, not what was there."
_MEANING = {
    "kept": "as the first stage had it",
    "raised": "the second stage is surer",
    "lowered": "the second stage is less sure",
    "moved": "the box lies elsewhere",
    "found": "below the least score without the second stage",
    "dropped": "below the least score with it",
}
_STYLE = """\
.legend { list-style: none; margin: 0; padding: 0; }
.legend li { display: flex; gap: .5rem; align-items: baseline; margin: .15rem 0; }
.legend span { flex: none; width: 1rem; height: 1rem; border: 3px solid; outline: 1px solid #000; align-self: center; }
input.subdued { color: var(--body-text-color) !important; }
"""
_EMPTY = "<p>No photograph yet.</p>"


@dataclass(frozen=True, kw_only=True)
class ServerOptions:
    """Where the page is served, and how large photographs may be.

    Attributes:
        host: address to listen at.
        port: port to listen at.
        most_bytes: size of a file.
    """

    host: str = "127.0.0.1"
    port: int = 7860
    most_bytes: int = 20_000_000


class _Photo(NamedTuple):
    """A photograph in a tab, all boxes found in it, and what found them."""

    picture: Image.Image
    name: str
    every: Detections
    by: str = ""


@contextmanager
def serve(stages: Stages, options: ServerOptions) -> Iterator[str]:
    """Serve the page as long as the context lasts.

    Args:
        stages: what finds and enlarges faces.
        options: where.

    Yields:
        The page's address.

    Raises:
        MissingDependency: without Gradio.
        ConfigError: if the port is taken or the host is none of this machine's.
    """
    folder = Path(tempfile.mkdtemp(prefix="tinygan-app-"))
    # Gradio reads these when it is imported and when the page is built.
    logging.getLogger("httpx").setLevel(logging.WARNING)
    os.environ |= {"GRADIO_ANALYTICS_ENABLED": "False", "GRADIO_TEMP_DIR": str(folder)}
    stop = threading.Event()
    threading.Thread(target=_forget, args=(folder, stop), daemon=True).start()
    try:
        page = _Page(_import_gradio(), stages, folder).build()
        try:
            _, address, _ = page.launch(
                server_name=options.host, server_port=options.port, max_file_size=options.most_bytes,
                share=False, prevent_thread_lock=True, quiet=True, show_error=True, footer_links=[], run_history=False,
                ssr_mode=False, mcp_server=False, pwa=False, enable_monitoring=False, allowed_paths=[],
                state_session_capacity=_SESSIONS, css=_STYLE, theme=_theme(),
            )  # fmt: skip
        except OSError as error:
            raise ConfigError(
                f"{options.host}:{options.port}: cannot listen there; choose another --port or --host"
            ) from error
        try:
            yield address
        finally:
            page.close(verbose=False)
    finally:
        stop.set()
        shutil.rmtree(folder, ignore_errors=True)


def remove_old(folder: Path, seconds: float) -> None:
    """Remove the files below a folder that have not been written for so long."""
    for file in folder.rglob("*"):
        try:
            if file.is_file() and time.time() - file.stat().st_mtime > seconds:
                file.unlink()
        except FileNotFoundError:  # Gradio removed it meanwhile
            continue


def _forget(folder: Path, stop: threading.Event) -> None:
    while not stop.wait(60):
        remove_old(folder, KEPT_SECONDS)


def _import_gradio() -> Any:
    try:
        import gradio
    except ImportError as error:
        raise MissingDependency("tinygan-app needs Gradio: pip install 'tinygan[app]'") from error
    return gradio


def _theme() -> Any:
    """Gradio's plainest look, in the fonts of the computer: others are fetched from the network."""
    return _import_gradio().themes.Base(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])


class _Page:
    """What is on the page and what it does.

    Args:
        gradio: the package.
        stages: what finds and enlarges faces.
        folder: for the files to download.
    """

    def __init__(self, gradio: Any, stages: Stages, folder: Path) -> None:
        self._gradio, self._stages, self._folder = gradio, stages, folder

    def build(self) -> Any:
        """The page as Gradio's ``Blocks``."""
        gradio = self._gradio
        with gradio.Blocks(title=TITLE, analytics_enabled=False) as page:
            gradio.Markdown(_LEAD)
            photo_state = gradio.State(None, time_to_live=KEPT_SECONDS)
            view_state = gradio.State(None, time_to_live=KEPT_SECONDS)
            with gradio.Row():
                with gradio.Column(scale=1, min_width=280):
                    photo = gradio.Image(
                        label="Photograph", type="filepath", image_mode=None, sources=["upload", "webcam", "clipboard"],
                        buttons=[], height=260,
                    )  # fmt: skip
                    first = gradio.Radio(first_stages(), value=DEFAULT, label="First stage")
                    second = gradio.Checkbox(True, label="Second stage")
                    least = gradio.Slider(0, 1, MIN_SCORE, step=0.01, label="Least score of a face", buttons=[])
                    legend = gradio.HTML(_EMPTY)
                with gradio.Column(scale=2, min_width=280, visible=False) as answer:
                    shown = gradio.Image(
                        show_label=False, alt_text="Your photograph with numbered boxes", interactive=False,
                        format="jpeg", buttons=[],
                    )  # fmt: skip
                    faces = gradio.Dropdown([], label="Enlarge a face: click it above, or choose it", interactive=True)
                    face = gradio.Image(
                        show_label=False, alt_text="The face as it is, by bicubic interpolation, super-resolved",
                        visible=False, interactive=False, format="png", buttons=[],
                    )  # fmt: skip
                    gradio.Markdown(_GUESS)
                    with gradio.Row():
                        table = gradio.DownloadButton("Table (CSV)")
                        picture = gradio.DownloadButton("Picture (JPEG)")
            settings, drawn = [first, second, least], [answer, shown, legend, faces, face, table, picture]
            kept = [photo_state, view_state]
            quietly: dict[str, Any] = {
                "api_visibility": "private",
                "concurrency_id": "networks",
                "concurrency_limit": 1,
            }
            photo.change(self.take, [photo, *settings], [*kept, *drawn], show_progress_on=legend, **quietly)
            for setting in (first, second):
                setting.input(self.search, [photo_state, *settings], [*kept, *drawn], **quietly)
            least.change(
                self.show, [photo_state, first, least], [view_state, *drawn], trigger_mode="always_last", **quietly
            )
            shown.select(self._picker(), view_state, [faces, face], **quietly)
            faces.input(self.enlarge, [view_state, faces], face, **quietly)
        return page

    def take(self, file: str | None, first: str, second: bool, least: float) -> tuple[Any, ...]:
        """A photograph was dropped, taken or removed."""
        if file is None:
            return (None, *self.show(None, first, least))
        picture = read_image(Path(file)).convert("RGB")
        return self.search(_Photo(picture, Path(file).name, Detections.empty()), first, second, least)

    def search(self, photo: _Photo | None, first: str, second: bool, least: float) -> tuple[Any, ...]:
        """A stage was chosen, or there is a new photograph."""
        if photo is not None:
            every = self._stages.search(photo.picture, first, second)
            photo = photo._replace(every=every, by=f"{first} and the second stage" if second else f"{first} alone")
        return (photo, *self.show(photo, first, least))

    def show(self, photo: _Photo | None, first: str, least: float) -> tuple[Any, ...]:
        """The least score was chosen, or other boxes were found."""
        gradio = self._gradio
        if photo is None:
            return None, gradio.Column(visible=False), None, _EMPTY, None, None, None, None
        view = view_faces(photo.picture, photo.name, photo.every, least)
        choices = gradio.Dropdown([(view.label(row), row) for row in range(len(view.faces))], value=None)
        downloads = [str(file) for file in self._write(view, first)]
        return (
            view,
            gradio.Column(visible=True),
            view.drawn,
            _legend(view, photo.by),
            choices,
            self.enlarge(None, None),
            *downloads,
        )

    def enlarge(self, view: View | None, row: int | None) -> Any:
        """A face was chosen."""
        enlarged = None if view is None or row is None else self._stages.enlarge(view, row)
        return self._gradio.Image(value=enlarged, visible=enlarged is not None)

    def _picker(self) -> Any:
        def pick(view: View | None, event: Any) -> tuple[Any, Any]:
            """A place of the picture was clicked."""
            row = None if view is None else view.face_at(*event.index)
            return row, self.enlarge(view, row)

        pick.__annotations__["event"] = self._gradio.SelectData  # by which Gradio knows what to give
        return pick

    def _write(self, view: View, first: str) -> tuple[Path, Path]:
        """The files to download: table and picture."""
        folder = Path(tempfile.mkdtemp(dir=self._folder))
        stem = Path(view.name).stem
        table, picture = folder / f"{stem}.csv", folder / f"{stem}-faces.jpg"
        write_atomically(table, view.table().encode())
        Image.fromarray(self._stages.draw(view, first)).save(picture, quality=_JPEG_QUALITY)
        return table, picture


def _legend(view: View, by: str) -> str:
    """How many faces there are, what found them, and what colours and signs mean."""
    counts = view.count() | {"dropped": len(view.dropped)}
    lines = []
    for name, count in counts.items():
        red, green, blue = COLOURS.get(name, DROPPED)
        swatch = f'<span style="border-color: rgb({red}, {green}, {blue})" aria-hidden="true"></span>'
        sign = f" ({SIGNS[name]})" if name in SIGNS else ""
        lines.append(f"<li>{swatch}<div><b>{count} {name}{sign}</b>: {_MEANING[name]}</div></li>")
    faces = f"{len(view.faces)} face{'' if len(view.faces) == 1 else 's'}"
    return f'<p role="status"><b>{faces}</b> by {by}</p><ul class="legend">{"".join(lines)}</ul>'
