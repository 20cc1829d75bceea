"""Hits and reports as lines for the screen, and hits as JSON for programs."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from shutil import get_terminal_size

from .collection import Hit
from .indexing import IndexReport

SHOWN_REASONS = 20
NAMES = {"image": ("picture", "pictures"), "video": ("video", "videos"), "text": ("passage", "passages")}


def hit_lines(hits: Sequence[Hit]) -> list[str]:
    """A line a hit, and one more with the beginning of a passage."""
    if not hits:
        return ["Nothing found; are the filters too narrow?"]
    width = get_terminal_size().columns
    lines = []
    for rank, hit in enumerate(hits, 1):
        gone = "" if hit.is_there else "  (no longer there: llave index notices)"
        lines.append(f"{rank:>3}  {hit.score:6.3f}  {hit.kind:<5}  {_short(hit.path)}{gone}")
        if hit.text is not None:
            lines.append(" " * 20 + snippet(hit.text, max(40, width - 20)))
    return lines


def snippet(text: str, length: int) -> str:
    """The beginning of a text on one line."""
    line = " ".join(text.split())
    return line if len(line) <= length else line[: length - 1].rstrip() + "…"


def hit_json(hits: Sequence[Hit]) -> str:
    """One JSON list of objects with the fields of [`Hit`]."""
    fields = [{**vars(hit), "path": str(hit.path), "modified": hit.modified.isoformat()} for hit in hits]
    return json.dumps(fields, ensure_ascii=False)


def report_lines(report: IndexReport, *, all_broken: bool = False) -> list[str]:
    """What a run of `llave index` did."""
    parts = ("added", "changed", "moved", "copied", "removed", "unchanged")
    counts = [f"{getattr(report, part):,} {part}" for part in parts if getattr(report, part)]
    lines = [f"Files      {', '.join(counts) or 'none'}"]
    if encoded := report.added + report.changed:
        lines[0] += f" ({encoded / report.seconds:.3g} files/s)"
    if report.left_out:
        lines.append(
            "Left out   " + ", ".join(f"{count:,} {reason}" for reason, count in report.left_out.most_common())
        )
    if report.broken:
        lines.append(f"Broken     {len(report.broken):,}, not found by any search until they are mended:")
        shown = list(report.broken.values())[: None if all_broken else SHOWN_REASONS]
        lines += [f"           {reason}" for reason in shown]
        if len(shown) < len(report.broken):
            lines.append(f"           and {len(report.broken) - len(shown):,} more: --all_broken names them")
    return lines


def counts_line(counts: dict[str, int]) -> str:
    """`8,443 pictures, 16 videos`."""
    return ", ".join(f"{counts[kind]:,} {NAMES[kind][counts[kind] != 1]}" for kind in NAMES if kind in counts)


def _short(path: Path) -> str:
    """Relative to the working directory where the file lies in it."""
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)
