"""Training rows whose columns are known by their names, in MMEB's schema."""

from __future__ import annotations

import functools
import logging
from collections.abc import Collection
from difflib import get_close_matches

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from llave_hf.data.described.names import JUDGEMENTS, KNOWN, NEGATIVES, OPTIONAL, PICTURES, REQUIRED
from llave_hf.data.sources.specs import suggest
from llave_hf.data.stored.columns import PLACES, leaf_type
from llave_hf.model.media_llave import IMAGE_SUFFIXES, VIDEO_SUFFIXES

from .columns import SideColumns, holds_places, negative_columns, side_columns, with_marks

logger = logging.getLogger(__name__)

_MEDIA = [name for name in sorted(KNOWN) if "image" in name or "video" in name]
_EVALUATION = ("qry_text", "tgt_text")


def under_one_name(table: pa.Table) -> pa.Table:
    """Pictures may stand in `qry_image` as well as in `qry_image_path`, and so on."""
    renamed = {name: known for name, known in PICTURES.items() if known not in table.column_names}
    return table.rename_columns([renamed.get(name, name) for name in table.column_names])


def known_sides(table: pa.Table) -> tuple[SideColumns, SideColumns]:
    """Queries and positives of all rows. Texts beside pictures of the table itself need no marks.

    Raises:
        ColumnError: A column has another type.
    """
    query = side_columns(table, "qry", "qry_image_path", "qry_video_path")
    positive = side_columns(table, "pos_text", "pos_image_path", "pos_video_path")
    return _marked(table, query, "qry_image_path"), _marked(table, positive, "pos_image_path")


def known_negatives(table: pa.Table, positives: SideColumns, where: str) -> tuple[SideColumns, np.ndarray]:
    """The negatives of all rows, see [`negative_columns`].

    Pictures without a text take their positive's, which says so once: see [`_with_texts_of`].

    Args:
        table: The rows.
        positives: Of the same rows.
        where: Their source, for what is told.

    Raises:
        ColumnError: A column has another type, or the lists of a row are not equally long.
    """
    sides, offsets = negative_columns(table, *NEGATIVES)
    sides = _with_texts_of(positives, sides, offsets, where)
    return _marked(table, sides, "neg_image_path"), offsets


def _with_texts_of(positives: SideColumns, negatives: SideColumns, offsets: np.ndarray, where: str) -> SideColumns:
    """Mined pictures whose text is empty mean "another picture instead of the positive's": they take its text.

    A document without the instruction that all positives have would be known by that alone. Source: mmE5,
    `src/dataset.py`, which trains so on its mined negatives. Only where both have as many pictures, and no video.
    """
    rows = np.repeat(np.arange(len(positives)), np.diff(offsets))
    pictures = negatives.num_images()
    untold = negatives.without_text() & (pictures > 0) & (pictures == positives.num_images()[rows])
    untold &= ~negatives.has_video() & ~positives.has_video()[rows]
    if not untold.any():
        return negatives
    _tell_texts(where)
    texts = pc.if_else(pa.array(untold), positives.text.take(pa.array(rows)), negatives.text)
    return SideColumns(texts, negatives.images, negatives.video)


@functools.cache
def _tell_texts(where: str) -> None:
    logger.warning("%s: negatives that are pictures without a text take the text of their row's positive.", where)


def _marked(table: pa.Table, side: SideColumns, column: str) -> SideColumns:
    return with_marks(side) if column in table.column_names and holds_places(table, column) else side


def check_columns(fields: pa.Schema, where: str, ignored: Collection[str] = ()) -> None:
    """Looks for the columns that a training row needs, and for those that nobody would read.

    Args:
        fields: All columns.
        where: Their source, for messages.
        ignored: Columns that the source is known to have for nothing.

    Raises:
        ValueError: One is not there; the message lists what is, and names the nearest. Or the rows are an
            evaluation's. Or a column of pictures has no name that is known.
    """
    names = fields.names
    for name in REQUIRED:
        if name not in names:
            if set(_EVALUATION) <= set(names):
                raise ValueError(
                    f"{where} holds rows of an evaluation ({', '.join(_EVALUATION)}), not of training; name it in "
                    "`eval_benchmark`, and training rows in `train_data`."
                )
            near = suggest(name, [other for other in names if other not in REQUIRED + OPTIONAL + NEGATIVES])
            raise ValueError(
                f"{where} has no column {name!r}{near}; there are {', '.join(names)}. A training row has "
                f"{', '.join(REQUIRED)} and, if it likes, {', '.join(OPTIONAL + NEGATIVES + JUDGEMENTS)}; or say in "
                "`query` and `positive` of this entry of train_data what its columns mean."
            )
    both = [f"{name} and {known}" for name, known in PICTURES.items() if name in names and known in names]
    if both and not {part for pair in both for part in pair.split(" and ")} & set(ignored):
        raise ValueError(f"{where} has both {both[0]}; name the one that is not meant in `ignore`.")
    for name in names:
        if name not in KNOWN and name not in ignored and leaf_type(fields.field(name).type) == PLACES:
            raise ValueError(
                f"{where} has pictures in the column {name!r}, which nobody reads"
                f"{suggest(name, sorted(PICTURES))} Name it so, say in `query` and `positive` what the columns mean, "
                f"or leave it out by `ignore: [{name}]`."
            )


def suspects(names: Collection[str], ignored: Collection[str] = ()) -> list[str]:
    """The columns that nobody reads and whose names are near those of pictures and videos."""
    unread = [name for name in names if name not in KNOWN and name not in ignored]
    return [name for name in unread if suggest(name, _MEDIA)]


def check_unread(table: pa.Table, where: str, ignored: Collection[str] = ()) -> None:
    """Looks whether a column that nobody reads holds paths of pictures.

    Raises:
        ValueError: It does, and its name is near one that is known.
    """
    for name in suspects(table.column_names, ignored):
        first = _first_text(table.column(name))
        suffix = "" if first is None or "://" in first else f".{first.rpartition('.')[2].lower()}"
        if suffix in IMAGE_SUFFIXES | VIDEO_SUFFIXES:
            raise ValueError(
                f"{where} has paths such as {first!r} in the column {name!r}, which nobody reads"
                f"{suggest(name, _MEDIA)} Name it so, say in `query` and `positive` what the columns mean, or leave "
                f"it out by `ignore: [{name}]`."
            )


def tell_unread(names: Collection[str], used: Collection[str], where: str, ignored: Collection[str] = ()) -> None:
    """Says once which columns nobody reads, each with the nearest name that is known."""
    if unread := unread_columns(names, used, ignored):
        _tell(where, ", ".join(unread))


def unread_columns(names: Collection[str], used: Collection[str], ignored: Collection[str] = ()) -> list[str]:
    """The columns that nobody reads, each with the nearest name that is known."""
    unread = [name for name in names if name not in used and name not in ignored and not name.startswith("__")]
    near = {name: get_close_matches(name, sorted(KNOWN), n=1, cutoff=0.6) for name in unread}
    return [f"{name} ({near[name][0]} is known)" if near[name] else name for name in unread]


@functools.cache
def _tell(where: str, listed: str) -> None:
    logger.warning("%s: these columns are not read: %s", where, listed)


def _first_text(column: pa.ChunkedArray) -> str | None:
    for chunk in column.chunks:
        for value in chunk.slice(0, 100).to_pylist():
            if isinstance(value, list):
                value = next(iter(value), None)
            if isinstance(value, str) and value:
                return value
    return None
