"""A look at data as one page for the browser, with small copies of pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePath
from typing import Any

from llave_hf.data.thumbnails import PICTURES_AN_INPUT, SIDE, Thumbnails
from llave_hf.runtime.pages import page_environment
from llave_hf.runtime.version import __version__

from .look import DataLook, ShownSample, TaskLook
from .prompts import Prompt
from .sides import BINS, WIDEST, SideLook
from .text import picture_line, sampling

PICTURE_BYTES = 16 << 20  # of all pictures of a page
TEXT_SHOWN = 1200  # characters of a prompt's text
WIDE, HIGH = 160, 28  # of a histogram, in units of its SVG


def write_page(look: DataLook, file: str | Path, title: str) -> None:
    """Writes the page; missing folders are made."""
    Path(file).parent.mkdir(parents=True, exist_ok=True)
    Path(file).write_text(render_page(look, title), encoding="utf-8")


def render_page(look: DataLook, title: str) -> str:
    """The page as text; the same for the same look and pictures.

    Args:
        title: What was looked at, as it was named.
    """
    thumbnails = Thumbnails(PICTURE_BYTES)
    axis = _axis([side for task in look.tasks for side in task.sides])
    tasks = []
    for number, task in enumerate(look.tasks, start=1):
        thumbnails.allow(number / len(look.tasks))
        tasks.append(_task(task, look, axis, thumbnails))
    example = next((shown.prompt for task in look.tasks for pair in task.pairs for shown in pair.samples), None)
    return (
        page_environment("llave_hf.data.look")
        .get_template("look.html.jinja")
        .render(
            look=look,
            title=" / ".join(PurePath(title).parts[-2:]) if len(PurePath(title).parts) > 2 else title,
            path=title,
            sampling=sampling(look),
            tasks=tasks,
            example=example and _pieces(example),
            axis=(edge(axis[0]), edge(axis[1])),
            chart={"width": WIDE, "height": HIGH},
            pictures={"left_out": thumbnails.left_out, "side": SIDE, "most": PICTURES_AN_INPUT},
            version=__version__,
        )
    )


def _task(task: TaskLook, look: DataLook, axis: tuple[int, int], thumbnails: Thumbnails) -> dict[str, Any]:
    names = {side.role: _kinds(side) for side in task.sides}
    return {
        "look": task,
        "share": task.rows / max(one.rows for one in look.tasks),
        "kinds": names,
        "negatives": next((side.entries / task.read for side in task.sides if side.role == "negative"), 0),
        "charts": {side.role: _chart(side, axis) for side in task.sides},
        "pictures": picture_line(task.pictures) if task.pictures.samples else None,
        "pairs": [
            {
                "row": pair.row,
                "more_negatives": pair.more_negatives,
                "samples": [_sample(one, thumbnails) for one in pair.samples],
            }
            for pair in task.pairs
        ],
        "remarks": [remark for remark in look.remarks if remark.where == task.name],
    }


def _kinds(side: SideLook) -> str:
    """What most entries of a side are made of."""
    parts = (("picture", side.pictures), ("video", side.videos), ("text", side.texts))
    kinds = [name if count == side.entries else f"some {name}s" for name, count in parts if count]
    return " + ".join(kinds) or "nothing"


def _sample(shown: ShownSample, thumbnails: Thumbnails) -> dict[str, Any]:
    return {
        "role": shown.role,
        "fault": shown.fault,
        "pieces": _pieces(shown.prompt, inside=True) if shown.prompt is not None else [],
        "tokens": shown.prompt.tokens if shown.prompt is not None else None,
        "lost": shown.prompt.lost if shown.prompt is not None else 0,
        "pictures": thumbnails.of(shown.sample),
        "more_pictures": max(0, len(shown.sample.images) - PICTURES_AN_INPUT),
    }


def _pieces(prompt: Prompt, *, inside: bool = False) -> list[dict[str, Any]]:
    """Pieces of a prompt, long texts shortened; `inside` leaves out what stands around the user's turn."""
    shown = []
    for piece in prompt.pieces:
        if not inside or piece.kind in ("mark", "text"):
            more = max(0, len(piece.text) - TEXT_SHOWN)
            shown.append({"kind": piece.kind, "text": piece.text[:TEXT_SHOWN], "more": more, "times": piece.times})
    return shown


def _axis(sides: Sequence[SideLook]) -> tuple[int, int]:
    """The bins that all histograms of a page show: from the first that any text is in to the last."""
    used = [number for side in sides for number, count in enumerate(side.histogram) if count]
    return (min(used), max(used) + 1) if used else (0, 1)


def _chart(side: SideLook, axis: tuple[int, int]) -> str:
    """Steps, closed along the axis: the `d` of an SVG's path; empty where there are no texts."""
    counts = side.histogram[slice(*axis)]
    if not any(counts):
        return ""
    width, top = WIDE / len(counts), max(counts)
    steps = [f"M0,{HIGH}"]
    for number, count in enumerate(counts):
        steps.append(f"V{HIGH * (1 - count / top):.1f}H{width * (number + 1):.1f}")
    return "".join([*steps, f"V{HIGH}Z"])


def edge(number: int) -> int:
    """Characters at which a bin begins."""
    return round(WIDEST ** (number / BINS))
