"""What a folder of vectors is made of: model, prompt, columns, parts. It refuses to hold two kinds of vectors."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from llave_hf.errors import UserError

from .parts import Part
from .sources import Source

FILE = "_manifest.json"  # which readers of parquet folders leave out
WORK = ".work"  # beside the shards: locks, and what is not whole yet
FORMAT = 1
_NAMED = 3  # files that a message names
# How messages call the settings that all vectors of a folder share.
_CALLED = {
    "model_revision": "model",
    "prompt": "prompt",
    "input": "input",
    "id": "columns that are kept",
    "dimensions": "number of dimensions",
    "precision": "precision",
    "dtype": "dtype of the model",
    "rows_per_shard": "rows a shard",
    "media_root": "media root",
}


@dataclass(frozen=True)
class Manifest:
    """The content of `_manifest.json`.

    Attributes:
        settings: What all vectors share, by the names of `_CALLED`, and `model`, its folder or id.
        columns: All of the first file of rows.
        kept: Those that are kept.
        kept_schema: The same with their types, as Arrow writes it, in hexadecimal digits.
        ranges: For int8, `(2, D)`.
        parts: In the order of files and rows.
    """

    settings: dict[str, Any]
    columns: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()
    kept_schema: str = ""
    ranges: list[list[float]] | None = None
    parts: tuple[Part, ...] = ()

    @staticmethod
    def new(settings: dict[str, Any], columns: Sequence[str], kept: pa.Schema, parts: Sequence[Part]) -> Manifest:
        """Of vectors that are to be made."""
        return Manifest(
            settings, tuple(columns), tuple(kept.names), kept.serialize().to_pybytes().hex(), None, tuple(parts)
        )

    def kept_fields(self) -> pa.Schema:
        """The columns that are kept, with their types."""
        return pa.ipc.read_schema(pa.py_buffer(bytes.fromhex(self.kept_schema)))

    def check_settings(self, settings: Mapping[str, Any], folder: Path) -> None:
        """Compares what a run asks for with what the folder holds.

        Raises:
            UserError: They differ.
        """
        for name, called in _CALLED.items():
            if name not in settings or settings[name] == self.settings.get(name):
                continue
            here, asked = (
                f"{one['model']} ({one[name]})" if name == "model_revision" else repr(one.get(name))
                for one in (self.settings, settings)
            )
            raise UserError(
                f"{folder} holds vectors of another {called}: {here}, and this run has {asked}. Choose another "
                "--output, or delete the folder."
            )


def read_manifest(folder: Path) -> Manifest | None:
    """The manifest of a folder; None where there is none.

    Raises:
        UserError: It cannot be read.
    """
    try:
        content = json.loads((folder / FILE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise UserError(f"{folder / FILE} cannot be read ({error}); delete the folder and begin anew.") from error
    found = content.pop("format", None)
    if found != FORMAT:
        raise UserError(f"{folder / FILE} has the format {found}, not {FORMAT}: embed the corpus anew.")
    parts = tuple(Part(**part) for part in content["parts"])
    return Manifest(**{**content, "parts": parts, **{name: tuple(content[name]) for name in ("columns", "kept")}})


def write_manifest(manifest: Manifest, folder: Path) -> None:
    """Writes it whole or not at all."""
    content = {"format": FORMAT, **asdict(manifest)}
    text = json.dumps(content, ensure_ascii=False, indent=1)
    unfinished = folder / WORK / FILE
    with unfinished.open("w", encoding="utf-8", errors="surrogatepass") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(unfinished, folder / FILE)


@dataclass(frozen=True)
class Changes:
    """What is another in a source since a manifest was written.

    Attributes:
        same: Parts that are as they were.
        stale: Parts whose rows have changed or are gone.
        fresh: Parts that are new, or take the place of stale ones.
        changed, gone: The names of files, or of parts of a folder of media.
    """

    same: tuple[Part, ...]
    stale: tuple[Part, ...]
    fresh: tuple[Part, ...]
    changed: tuple[str, ...]
    gone: tuple[str, ...]


def changed_files(manifest: Manifest, source: Source) -> list[str]:
    """The files of a source that a manifest does not know as they are now, for which parts have to be found."""
    known = {part.file: part.stamp for part in manifest.parts}
    return [name for name, stamp in source.stamps.items() if known.get(name) != stamp]


def find_changes(manifest: Manifest, planned: Sequence[Part], source: Source) -> Changes:
    """Compares a manifest with a source.

    Args:
        planned: The parts of [`changed_files`], or of a folder of media all.
        source: As it is now.
    """
    now = {part.name: part for part in planned}
    same: list[Part] = []
    stale: list[Part] = []
    changed: set[str] = set()
    gone: set[str] = set()
    for part in manifest.parts:
        if source.stamps:
            is_same = source.stamps.get(part.file) == part.stamp
            is_gone, name = part.file not in source.files, part.file
        else:
            is_same = now.get(part.name) == part
            is_gone, name = part.name not in now, part.name
        (same if is_same else stale).append(part)
        if not is_same:
            (gone if is_gone else changed).add(name)
    kept = {part.name for part in same}
    fresh = [part for part in planned if part.name not in kept]
    return Changes(tuple(same), tuple(stale), tuple(fresh), tuple(sorted(changed)), tuple(sorted(gone)))


def refuse_changes(changes: Changes, folder: Path) -> None:
    """Raises UserError where rows that were planned or embedded have changed or are gone."""
    said = []
    for names, what in ((changes.changed, "changed"), (changes.gone, "gone")):
        if names:
            more = ", ..." if len(names) > _NAMED else ""
            said.append(f"{len(names)} {what} ({', '.join(names[:_NAMED])}{more})")
    if said:
        raise UserError(
            f"the corpus is not what it was when {folder} was begun: {' and '.join(said)}. --refresh embeds what has "
            "changed anew and drops what is gone; or choose another --output."
        )


def with_parts(manifest: Manifest, changes: Changes) -> Manifest:
    """The manifest with the parts that there are now."""
    return replace(manifest, parts=(*changes.same, *changes.fresh))
