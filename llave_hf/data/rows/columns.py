"""Reads columns of MMEB rows in Arrow: one side of all rows at once, checked without a Python loop over rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from llave_hf.data.samples import MARK_PATTERN, Sample, sample_from
from llave_hf.data.stored.columns import PLACES, is_list, leaf_type
from llave_hf.data.stored.pictures import MARK, decoded

_STRINGS = pa.large_string()


class ColumnError(ValueError):
    """A column or a row that cannot be used.

    Attributes:
        row: The row, counted from 0 in the columns given, or None where the whole column is at fault.
    """

    def __init__(self, message: str, row: int | None = None) -> None:
        super().__init__(message)
        self.row = row


@dataclass(frozen=True)
class SideColumns:
    """Queries, positives or negatives of a whole subset; entry i becomes a `Sample`.

    Attributes:
        text: large_string, no nulls.
        images: large_list<large_string>, no nulls and no empty strings: paths, and places of pictures that lie in a
            file of rows, as `StoredPicture` writes them.
        video: large_string, no nulls; empty where there is none.
    """

    text: pa.Array
    images: pa.Array
    video: pa.Array

    def __len__(self) -> int:
        return len(self.text)

    def sample(self, index: int, media_root: str | None) -> Sample:
        """Entry `index` as a sample."""
        images = map(decoded, self.images[index].as_py())
        return sample_from(self.text[index].as_py(), images, self.video[index].as_py() or None, media_root)

    def take(self, indices: np.ndarray) -> SideColumns:
        """The entries at `indices`, copied."""
        chosen = pa.array(indices)
        return SideColumns(self.text.take(chosen), self.images.take(chosen), self.video.take(chosen))

    @staticmethod
    def concatenated(sides: Sequence[SideColumns]) -> SideColumns:
        """The entries of several, one after the other."""
        parts = ([getattr(side, part) for side in sides] for part in ("text", "images", "video"))
        return SideColumns(*map(pa.concat_arrays, parts))

    def empty(self) -> np.ndarray:
        """Which entries have neither text nor media: bool `(n,)`."""
        return self.without_text() & ~self.has_media()

    def without_text(self) -> np.ndarray:
        """Which entries have no text but white space: bool `(n,)`."""
        return pc.equal(pc.utf8_trim_whitespace(self.text), "").to_numpy(zero_copy_only=False)

    def has_media(self) -> np.ndarray:
        """Which entries have a picture or a video: bool `(n,)`."""
        return (self.num_images() > 0) | self.has_video()

    def wrongly_marked(self) -> np.ndarray:
        """Which entries have more or fewer marks (`<|image_1|>`) than pictures: bool `(n,)`.

        A video in its own column may have a mark or not; one in the picture column has one, as in MMEB.
        """
        marks = pc.count_substring_regex(self.text, MARK_PATTERN).to_numpy(zero_copy_only=False)
        surplus = marks - self.num_images()
        return (surplus != 0) & ~(self.has_video() & (surplus == 1))

    def describe_marks(self, index: int) -> str:
        """What `wrongly_marked` found at an entry, in words."""
        marks = pc.count_substring_regex(self.text.slice(index, 1), MARK_PATTERN)[0].as_py()
        text, paths = self.text[index].as_py(), len(self.images[index])
        return f"{marks} mark(s) like <|image_1|> in {text[:80]!r} and {paths} path(s)"

    def paths(self) -> tuple[pa.Array, np.ndarray]:
        """All paths of pictures and videos, and the entry that each belongs to."""
        has_video = self.has_video()
        paths = pa.concat_arrays([pc.list_flatten(self.images), self.video.filter(pa.array(has_video))])
        parents = pc.list_parent_indices(self.images).to_numpy(zero_copy_only=False)
        return paths, np.concatenate([parents, np.flatnonzero(has_video)]).astype(np.int64)

    def files(self) -> tuple[pa.Array, np.ndarray]:
        """[`paths`], without pictures that lie in a file of rows."""
        paths, parents = self.paths()
        plain = pc.invert(pc.starts_with(paths, MARK))
        return paths.filter(plain), parents[plain.to_numpy(zero_copy_only=False)]

    def num_images(self) -> np.ndarray:
        """How many pictures each entry has: int `(n,)`."""
        return pc.list_value_length(self.images).to_numpy(zero_copy_only=False)

    def has_video(self) -> np.ndarray:
        """Which entries have a video in its own column: bool `(n,)`."""
        return pc.not_equal(self.video, "").to_numpy(zero_copy_only=False)


def side_columns(table: pa.Table, text: str, image: str, video: str) -> SideColumns:
    """One side with one entry a row; `image` may hold a path or a list of paths, columns but `text` may be absent.

    Raises:
        ColumnError: A column has another type.
    """
    return SideColumns(_strings(table, text), _path_lists(table, image), _strings(table, video))


def with_marks(side: SideColumns) -> SideColumns:
    """The side with a mark for each picture before texts that have none."""
    count = pc.list_value_length(side.images).to_numpy(zero_copy_only=False)
    unmarked = ~pc.match_substring_regex(side.text, MARK_PATTERN).to_numpy(zero_copy_only=False) & (count > 0)
    if not unmarked.any():
        return side
    most = int(count[unmarked].max())
    marks = ["".join(f"<|image_{number}|>" for number in range(1, many + 1)) for many in range(most + 1)]
    prefix = pa.array(marks, _STRINGS).take(pa.array(np.where(unmarked, count, 0)))
    return SideColumns(
        pc.binary_join_element_wise(prefix, side.text, pa.scalar("", _STRINGS)), side.images, side.video
    )


def negative_columns(table: pa.Table, text: str, image: str, video: str) -> tuple[SideColumns, np.ndarray]:
    """The negatives of all rows, one after the other; row r has the entries `offsets[r]:offsets[r + 1]`.

    A string in `text` is one negative (whose `image` may be a list); a list holds one text a negative, and then
    `image` and `video` hold one entry for each of them (a path or a list of paths), or nothing. Negatives without
    text and media are left out: MMEB writes empty strings where a subset has none.

    Raises:
        ColumnError: A column has another type, or the lists of a row are not equally long.
    """
    if _is_list(table, text):
        sides, parents = _aligned_negatives(table, text, image, video)
    else:
        sides, parents = side_columns(table, text, image, video), np.arange(len(table))
    present = np.flatnonzero(~sides.empty())
    counts = np.bincount(parents[present], minlength=len(table))
    return sides.take(present), np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)


def _aligned_negatives(table: pa.Table, text: str, image: str, video: str) -> tuple[SideColumns, np.ndarray]:
    texts = _lists(table, text, _STRINGS)
    lengths = _lengths(texts)
    parents = np.repeat(np.arange(len(table)), lengths)
    flat: dict[str, pa.Array] = {text: pc.fill_null(pc.list_flatten(texts), "")}
    for name in (image, video):
        if name not in table.column_names or not _is_list(table, name):
            if name in table.column_names and _any_given(table, name):
                raise ColumnError(f"{name!r} holds single paths where {text!r} holds lists; give lists in both.")
            flat[name] = pa.nulls(len(parents), _STRINGS)
            continue
        inner = table.schema.field(name).type.value_type
        leaf = PLACES if holds_places(table, name) else _STRINGS
        lists = _lists(table, name, pa.large_list(leaf) if is_list(inner) else leaf)
        flat[name] = aligned_entries(lists, lengths, name, repr(text), hint=" (an empty string for none)")
    return side_columns(pa.table(flat), text, image, video), parents


def aligned_entries(lists: pa.Array, counts: np.ndarray, name: str, beside: str, hint: str = "") -> pa.Array:
    """The entries of lists, one row's after the other's: `(counts.sum(),)`, null where a row has no list.

    Args:
        lists: `(n,)` lists.
        counts: `(n,)` how many entries each must have, if any.
        name: Of their column, for messages.
        beside: What has so many, for messages.
        hint: For messages.

    Raises:
        ColumnError: A row has another number of entries.
    """
    own = _lengths(lists)
    wrong = np.flatnonzero((own != 0) & (own != counts))
    if len(wrong):
        row = int(wrong[0])
        raise ColumnError(
            f"{name!r} has {own[row]} entries where {beside} has {counts[row]}; give one for each negative{hint}.", row
        )
    missing = np.repeat(own == 0, counts)
    first_of_row = np.repeat(np.cumsum(counts) - counts, counts)
    first_of_list = np.repeat(np.cumsum(own) - own, counts)
    picks = np.where(missing, 0, first_of_list + np.arange(len(missing)) - first_of_row)
    return pc.list_flatten(lists).take(pa.array(picks, mask=missing))


def _any_given(table: pa.Table, name: str) -> bool:
    values = _one_array(table, name, PLACES) if holds_places(table, name) else _strings(table, name)
    return bool(pc.any(pc.greater(pc.fill_null(pc.binary_length(values), 0), 0)).as_py())


def _strings(table: pa.Table, name: str) -> pa.Array:
    if name not in table.column_names:
        return pa.array([""] * len(table), _STRINGS)
    kind = table.schema.field(name).type
    if not _is_string_type(kind):
        raise ColumnError(f"column {name!r} holds {kind}; it must hold strings.")
    return pc.fill_null(_one_array(table, name, _STRINGS), "")


def _path_lists(table: pa.Table, name: str) -> pa.Array:
    places = name in table.column_names and holds_places(table, name)
    if name in table.column_names and _is_list(table, name):
        lists = _lists(table, name, PLACES if places else _STRINGS)
        parents, values = pc.list_parent_indices(lists), pc.list_flatten(lists)
    else:
        values = _one_array(table, name, PLACES) if places else _strings(table, name)
        parents = pa.array(np.arange(len(table)))
    if not places:
        _refuse_places(values, parents, name)
    values = pc.fill_null(values.cast(_STRINGS), "")
    given = pc.not_equal(values, "")
    counts = np.bincount(parents.filter(given).to_numpy(zero_copy_only=False), minlength=len(table))
    offsets = pa.array(np.concatenate([[0], np.cumsum(counts)]).astype(np.int64))
    return pa.LargeListArray.from_arrays(offsets, values.filter(given))


def holds_places(table: pa.Table, name: str) -> bool:
    """Whether a column says where pictures stand in files of rows."""
    return bool(leaf_type(table.schema.field(name).type) == PLACES)


def _refuse_places(paths: pa.Array, parents: pa.Array, name: str) -> None:
    """A path as a row has it must not read as the place of a picture."""
    wrong = pc.index(pc.match_substring(paths, MARK), True).as_py()
    if wrong >= 0:
        raise ColumnError(f"{name!r} holds a zero byte; write the name of a file", parents[wrong].as_py())


def _is_list(table: pa.Table, name: str) -> bool:
    return name in table.column_names and is_list(table.schema.field(name).type)


def _is_string_type(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_null(kind)


def _lists(table: pa.Table, name: str, item: pa.DataType) -> pa.Array:
    kind = table.schema.field(name).type
    leaf = leaf_type(kind)
    try:
        if not _is_string_type(leaf) and leaf != PLACES:
            raise pa.ArrowTypeError(f"its entries are {leaf}")
        return _one_array(table, name, pa.large_list(item))
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError) as error:
        raise ColumnError(f"column {name!r} holds {kind}; it must hold strings or lists of strings.") from error


def _one_array(table: pa.Table, name: str, kind: pa.DataType) -> pa.Array:
    chunks = table.column(name).cast(kind).chunks
    return pa.concat_arrays(chunks) if chunks else pa.array([], kind)


def _lengths(lists: pa.Array) -> np.ndarray:
    return pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False)
