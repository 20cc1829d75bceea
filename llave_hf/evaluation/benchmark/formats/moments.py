"""`format: moments`: the candidates of a query are the folders of frames beside the frames of its video.

`folder` is the template of a folder; all folders in it are candidates, but for the query's own. Those whose names
begin with `positive` are answers. Templates see the folder as `{folder}`, the target's also a candidate as `{clip}`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from llave_hf.data.described.templates import Template
from llave_hf.data.media import MediaError, resolve_media_path
from llave_hf.evaluation.benchmark.fields import BenchmarkError, Settings
from llave_hf.evaluation.benchmark.raw import EvalRow, TaskRows

from .base import Format, Tables
from .sides import SIDES, Side, SideByCase, fill, side_from, template_from

POSITIVE = "positive"


@dataclass(frozen=True)
class MomentsFormat(Format):
    """Templates of the folder and of both sides."""

    query: Side | SideByCase
    target: Side | SideByCase
    folder: Template

    keys = ("query", "target", "folder")
    required = keys

    @classmethod
    def from_settings(cls, settings: Settings) -> MomentsFormat:
        """From `query`, `target` and `folder`."""
        query, target = (side_from(settings.values[key], f"{settings.where}: {key}") for key in cls.keys[:2])
        return cls(query, target, template_from(settings.text("folder") or "", f"{settings.where}: folder"))

    def read(self, tables: Tables) -> TaskRows:
        """One answer a row, or several."""
        return TaskRows(self._rows(tables))

    def _rows(self, tables: Tables) -> Iterator[EvalRow]:
        for place, row in tables.rows():
            folder = fill(self.folder, row, f"{place}, folder")
            values = {**row, "folder": folder}
            query = self.query.fill(values, place + SIDES[0])
            clips = [clip for clip in _folders(tables, folder, place) if clip != query.video]
            right = [clip for clip in clips if clip.rpartition("/")[2].startswith(POSITIVE)]
            if not right:
                raise BenchmarkError(f"{place}: folder: {folder} has no folder that begins with {POSITIVE!r}.")
            ordered = right + [clip for clip in clips if clip not in right]
            targets = [self.target.fill({**values, "clip": clip}, place + SIDES[1]) for clip in ordered]
            yield EvalRow(query, targets, answers=len(right), place=place, sides=SIDES)


def _folders(tables: Tables, folder: str, place: str) -> list[str]:
    """The folders in a folder, by name, relative to the media folder."""
    if tables.media is None:
        raise BenchmarkError(f"{place}: folder: {folder} is needed: say with --data DIR where the frames lie.")
    try:
        resolved = resolve_media_path(folder, tables.media)
        return sorted(f"{folder}/{entry.name}" for entry in resolved.iterdir() if _is_clip(entry))
    except (MediaError, OSError) as error:
        raise BenchmarkError(f"{place}: folder: {error}") from error


def _is_clip(entry: Path) -> bool:
    """A folder that is not hidden, nor what a Mac's archive leaves beside the others."""
    return entry.is_dir() and not entry.name.startswith((".", "__MACOSX"))
