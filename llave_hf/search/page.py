"""Hits as the page shows them: small copies of pictures, clips, and passages."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from html import escape
from pathlib import PurePosixPath
from typing import Any

from PIL import Image

from llave_hf.model.media_llave import MediaError, load_frames, load_image, to_rgb

from .collection import Hit

SIDE = 768  # pixels of a copy, at most
MAX_CLIP_BYTES = 50 << 20  # a longer video shows its first frame
PLAYABLE = frozenset({".mp4", ".webm", ".m4v", ".mov", ".gif"})  # by browsers
PASSAGE_SHOWN = 300  # characters
THREADS = 4

CSS = """
.gradio-container { width: 100% !important; max-width: 1200px !important; margin: 0 auto !important; }
#head { text-align: center; }
#filters { align-items: stretch; }
#found .grid-container { grid-template-columns: repeat(auto-fill, minmax(150px, 1fr)) !important; gap: 12px; }
#found .grid-wrap { max-height: none; overflow: visible; }
#found .caption-label { max-width: 100%; font-variant-numeric: tabular-nums; }
#status .notice { color: var(--body-text-color); opacity: 0.75; padding: 0 4px; }
#passages article { border: 1px solid var(--border-color-primary); border-radius: 8px; padding: 12px 16px;
  margin-bottom: 12px; background: var(--block-background-fill); overflow-wrap: anywhere; }
#passages header { color: var(--body-text-color-subdued); font-size: 0.9em; margin-bottom: 4px;
  display: flex; justify-content: space-between; gap: 12px; }
#passages header span:last-child { white-space: nowrap; }
#passages p { white-space: pre-line; margin: 0; }
@media (max-width: 640px) {
  #found .grid-container { grid-template-columns: repeat(2, minmax(0, 1fr)) !important; }
}
"""


def shown_media(hits: Sequence[Hit], cache: str) -> tuple[list[tuple[Any, str]], int]:
    """Pictures and videos for a gallery, with captions, in order; and how many cannot be opened any more.

    Args:
        hits: None of them a passage.
        cache: Gradio's folder of the gallery, where copies of clips are put.
    """
    with ThreadPoolExecutor(THREADS) as threads:
        shown = list(threads.map(lambda hit: _shown(hit, cache), hits))
    pairs = [(media, _caption(hit)) for media, hit in zip(shown, hits, strict=True) if media is not None]
    return pairs, len(hits) - len(pairs)


def _shown(hit: Hit, cache: str) -> Image.Image | str | None:
    """A small copy of a picture or of a video's first frame, the path of a clip's copy, or None."""
    try:
        if hit.kind == "image":
            picture = load_image(hit.path)
        elif hit.path.suffix.lower() in PLAYABLE and hit.path.stat().st_size <= MAX_CLIP_BYTES:
            from gradio.processing_utils import save_file_to_cache

            return save_file_to_cache(hit.path, cache)
        else:
            picture = load_frames(hit.path, num_frames=1)[0]
    except (MediaError, OSError):
        return None
    if picture.mode not in ("RGB", "RGBA"):
        picture = to_rgb(picture)
    picture.thumbnail((SIDE, SIDE))
    return picture


def _caption(hit: Hit) -> str:
    place = PurePosixPath(hit.name)
    return f"{hit.score:.3f}  {'/'.join(place.parts[-2:])}"


def passages_html(hits: Sequence[Hit]) -> str:
    """Passages of texts, one below the other; whatever stands in them is shown, not obeyed."""
    return "".join(
        f"<article><header><span>{escape(hit.name)}, from character {hit.start}</span>"
        f"<span>{hit.score:.3f}</span></header><p>{escape((hit.text or '')[:PASSAGE_SHOWN])}</p></article>"
        for hit in hits
    )


def notice(text: str) -> str:
    """A line above the hits."""
    return f'<div class="notice">{escape(text)}</div>'
