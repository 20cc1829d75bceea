"""The page of `llave app`: a text, a picture or both in; pictures, clips and passages with their scores out.

Nothing of the disk is served: pictures leave as small copies, clips as copies, and only those that a search found.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from llave_hf.errors import UserError
from llave_hf.model.media_llave import MediaError, load_image

from .collection import Collection, Hit
from .listing import counts_line
from .page import CSS, notice, passages_html, shown_media

try:
    import gradio as gr
except ImportError as error:
    raise UserError("the page needs Gradio: pip install 'llave-hf[app]'.") from error

MAX_TEXT = 2000  # characters of a query
MAX_HITS = 60
MAX_FILE_SIZE = "20mb"
QUEUE = 32  # searches that wait at most
KEEP_SECONDS = 3600  # copies of uploads and hits
KIND_NAMES = {"Pictures": "image", "Videos": "video", "Texts": "text"}
EVERYWHERE = "everywhere"
Found = tuple[Any, str, str]


def build_app(collection: Collection, title: str = "Search") -> gr.Blocks:
    """The page as Gradio blocks; the model is loaded before it returns.

    Args:
        collection: What is searched.
        title: Above the page and in the browser's tab.
    """
    _ = collection.embedder
    counts = collection.counts()
    kinds = [name for name, kind in KIND_NAMES.items() if kind in counts]
    # Texts lie nearer to a text than any picture does, and would leave no place for one.
    shown = [name for name in kinds if name != "Texts"] or kinds
    with gr.Blocks(title=title, analytics_enabled=False, delete_cache=(KEEP_SECONDS, KEEP_SECONDS)) as app:
        gr.Markdown(f"# {title}\n{counts_line(counts) or 'Nothing indexed yet'}", elem_id="head")
        query = gr.MultimodalTextbox(
            placeholder="Describe what you look for, or drop a picture here",
            file_types=["image"],
            file_count="single",
            show_label=False,
            autofocus=True,
            elem_id="query",
        )
        with gr.Row(elem_id="filters"):
            kind = gr.CheckboxGroup(kinds, value=shown, label="Show", visible=len(kinds) > 1, elem_id="kinds")
            places = [EVERYWHERE, *collection.folders()]
            folder = gr.Dropdown(places, value=EVERYWHERE, label="In", visible=len(places) > 1, elem_id="folder")
            count = gr.Slider(4, MAX_HITS, value=24, step=4, label="How many", elem_id="count")
        status = gr.HTML(notice("What you look for appears here, the best first."), elem_id="status")
        gallery = gr.Gallery(
            show_label=False,
            columns=6,
            height="auto",
            object_fit="contain",
            buttons=["fullscreen"],
            interactive=False,
            visible=False,
            elem_id="found",
        )
        passages = gr.HTML(elem_id="passages")
        inputs, outputs = [query, kind, folder, count], [gallery, passages, status]
        search = _searcher(collection, gallery.GRADIO_CACHE)
        query.submit(search, inputs, outputs, api_name="search")
        for event in (kind.change, folder.change, count.release):  # a slider is asked when it is let go
            event(search, inputs, outputs, api_visibility="private", show_progress="hidden")
    app.queue(max_size=QUEUE)
    return app


def launch_options(host: str, port: int | None, max_file_size: str = MAX_FILE_SIZE) -> dict[str, Any]:
    """What `launch` of the page is given: no tunnel to the outside, no file of the disk, bounded uploads."""
    return {
        "server_name": host,
        "server_port": port,
        "share": False,
        "max_file_size": max_file_size,
        "allowed_paths": [],
        "footer_links": [],
        "css": CSS,
        "ssr_mode": False,
        "enable_monitoring": False,
    }


def _searcher(collection: Collection, cache: str) -> Callable[[dict[str, Any], list[str], str, float], Found]:
    def search(query: dict[str, Any], kinds: list[str], folder: str, count: float) -> Found:
        text, files = (query.get("text") or "").strip(), query.get("files") or []
        if not text and not files:
            return _gallery([]), "", notice("Write what you look for, or drop a picture.")
        started = time.monotonic()
        try:
            hits = _hits(collection, text, files, kinds, folder, int(count))
        except MediaError:
            gr.Warning("This picture cannot be opened. Try a PNG, JPEG, WEBP, GIF, BMP or TIFF, complete.")
            return _gallery([]), "", notice("The picture cannot be opened; try another.")
        except UserError as error:
            gr.Warning(str(error))
            return _gallery([]), "", notice(str(error))
        media, missing = shown_media([hit for hit in hits if hit.text is None], cache)
        passages = [hit for hit in hits if hit.text is not None]
        lines = f"{len(media) + len(passages)} found in {time.monotonic() - started:.2f} s"
        if missing:
            lines += f"; {missing} are no longer there (llave index brings the collection up to date)"
        return (
            _gallery(media),
            passages_html(passages),
            notice(lines if hits else "Nothing found; widen what is shown."),
        )

    return search


def _gallery(media: list[Any]) -> gr.Gallery:
    return gr.Gallery(media, visible=bool(media))  # an empty one is a large grey field


def _hits(
    collection: Collection, text: str, files: Sequence[str], kinds: Sequence[str], folder: str, count: int
) -> list[Hit]:
    if len(text) > MAX_TEXT:
        raise UserError(f"The text has {len(text)} characters; {MAX_TEXT} are the most.")
    picture = load_image(files[0]) if files else None
    place = None if folder == EVERYWHERE else folder
    chosen = [KIND_NAMES[name] for name in kinds] or None
    return collection.search(text, picture, k=max(1, min(count, MAX_HITS)), kind=chosen, folder=place)
