"""Shards of tar in WebDataset's layout, as rows.

`00/17.jpg`, `00/17.json` and `00/17.txt` are a row with the columns `jpg`, `json`, `txt` and `__key__` (`00/17`),
and with each field of the JSON that is no column yet. `image` is the sample's picture, whatever its suffix. Pictures
stay in the archive, and only their places are read.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from llave_hf.data.stored.columns import PLACES, place_texts
from llave_hf.data.stored.kept import kept_table, state_of
from llave_hf.data.stored.pictures import StoredPicture

from .archive_samples import Samples, all_samples, samples_of
from .texts import first_fault, no_half_characters

KEY = "__key__"
IMAGE = "image"
ALIAS = "alias"  # marks a field whose content is read under another name
JSON = ("json", "jsn")
PICTURES = frozenset({"png", "jpg", "jpeg", "webp", "gif", "bmp", "tif", "tiff", "ppm", "avif", "heic", "heif"})
_STRINGS = pa.large_string()
_FIELDS = b"fields"
_NOTHING = object()


def read_archive(
    file: str,
    wanted: Collection[str],
    *,
    start: int = 0,
    first_row: int = 0,
    rows: int | None = None,
    with_digests: bool = False,
) -> tuple[pa.Table, pa.Schema]:
    """Samples of an archive as rows.

    Of a whole archive, where its members lie and what its texts say is kept for the next start.

    Args:
        file: The archive.
        wanted: Columns to read, beside `__key__`.
        start: Where the first sample begins, see [`Samples`].
        first_row: Its number in the archive.
        rows: How many; None: all.
        with_digests: Whether to read the pictures' bytes for digests of them.

    Returns:
        The rows, and all the fields that they have.

    Raises:
        ValueError: See [`samples_of`]; or a field cannot be decoded.
    """
    if start or rows is not None:
        samples = samples_of(file, start, rows)
        texts = _texts(file, samples, wanted, first_row)
    else:
        state, what = state_of(file), json.dumps(["texts", *sorted(wanted)])
        samples = all_samples(file, state)
        texts = kept_table(file, state, what, lambda: _texts(file, samples, wanted, first_row))
    columns = {KEY: samples.keys, **dict(zip(texts.column_names, texts.columns, strict=True))}
    for name in sorted(wanted):
        places = _places(file, samples, name, first_row, with_digests)
        if places is not None:
            columns[name] = _with_paths(file, name, places, columns.get(name))
    return pa.table(columns), _fields(samples, json.loads(texts.schema.metadata[_FIELDS]), wanted)


def _fields(samples: Samples, inner: Collection[str], wanted: Collection[str]) -> pa.Schema:
    """All fields. Those whose content is read under another name are no columns of their own."""
    pictures = [suffix for suffix in samples.suffixes if suffix.lower() in PICTURES]
    image = [IMAGE] if len(_single_pictures(samples)) else []
    names = dict.fromkeys([KEY, *pictures, *image, *_of_json(samples.suffixes), *inner, *samples.suffixes])
    fields = []
    for name in names:
        picture = name.lower() in PICTURES or name == IMAGE
        other = name in (KEY, IMAGE) or name.lower() in JSON or (picture and IMAGE in wanted)
        fields.append(pa.field(name, PLACES if picture else _STRINGS, metadata={ALIAS: ""} if other else None))
    return pa.schema(fields if len(samples) else [])


def _of_json(suffixes: Iterable[str]) -> list[str]:
    return [suffix for suffix in suffixes if suffix.lower() in JSON]


def _members(samples: Samples, suffixes: Collection[str]) -> np.ndarray:
    """The members with some suffixes: int64, ascending."""
    chosen = np.array([suffix in suffixes for suffix in samples.suffixes], bool)
    return np.flatnonzero(chosen[samples.kinds])


def _single_pictures(samples: Samples) -> np.ndarray:
    """The members that are the only picture of their sample."""
    members = _members(samples, [suffix for suffix in samples.suffixes if suffix.lower() in PICTURES])
    rows = samples.rows()[members]
    return members[np.bincount(rows, minlength=len(samples))[rows] == 1]


def _places(file: str, samples: Samples, name: str, first_row: int, with_digests: bool) -> pa.Array | None:
    """Where the pictures of a column stand, empty where there is none: large_binary `(n,)`; None: it has none."""
    if name == IMAGE:
        members = _single_pictures(samples)
    else:
        members = _members(samples, [name] if name.lower() in PICTURES else [])
    if not len(members):
        return None
    rows, firsts, sizes = samples.rows()[members], samples.firsts[members], samples.sizes[members]
    suffixes = pa.array(samples.suffixes, _STRINGS).take(pa.array(samples.kinds[members]))
    digests: pa.Array | pa.Scalar = pa.scalar("", _STRINGS)
    if with_digests:
        spans = zip(firsts.tolist(), sizes.tolist(), strict=True)
        numbered = zip((rows + first_row).tolist(), suffixes.to_pylist(), spans, strict=True)
        digests = pa.array([StoredPicture(file, row, suffix, 0, span).content() for row, suffix, span in numbered])
    texts = place_texts(file, suffixes, rows + first_row, np.zeros(len(rows), np.int64), digests, (firsts, sizes))
    if len(texts) != len(samples):
        of_row = np.full(len(samples), -1)
        of_row[rows] = np.arange(len(rows))
        texts = pc.fill_null(texts.take(pa.array(of_row, mask=of_row < 0)), "")
    return texts.cast(PLACES)


def _with_paths(file: str, name: str, places: pa.Array, paths: pa.ChunkedArray | None) -> pa.Array | pa.ChunkedArray:
    """Places, and paths that the JSON has where there is none."""
    if paths is None:
        return places
    try:
        return pc.if_else(pc.equal(pc.binary_length(places), 0), pc.fill_null(paths.cast(PLACES), b""), places)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise ValueError(f"{file}, column {name!r} mixes types ({error}); use one type in all rows.") from error


def _texts(file: str, samples: Samples, wanted: Collection[str], first_row: int) -> pa.Table:
    """The wanted columns that are no pictures, and in the metadata all fields of the JSON. A member of that name goes
    before a field of the JSON, the first member of JSON before the second."""
    wanted = frozenset(wanted) - {KEY}
    whole = _of_json(samples.suffixes)
    texts = [suffix for suffix in samples.suffixes if suffix in wanted and suffix.lower() not in PICTURES]
    fields: dict[str, None] = {}
    of_json: dict[str, list[Any]] = {}
    columns: dict[str, list[Any]] = {suffix: [_NOTHING] * len(samples) for suffix in texts}
    last: tuple[str, ...] = ()  # the fields of the JSON before, for most have the same
    here: list[str] = []  # those of them that are wanted
    for row, suffix, value in _decoded(file, samples, {*whole, *texts}):
        if suffix in columns:
            columns[suffix][row] = value
        if suffix not in whole or not isinstance(value, dict):
            continue
        if (names := tuple(value)) != last:
            last, here = names, [name for name in names if name in wanted]
            fields.update(dict.fromkeys(names))
            for name in here:
                if name not in of_json:
                    of_json[name] = [_NOTHING] * len(samples)
        for name in here:
            if of_json[name][row] is _NOTHING:
                of_json[name][row] = value[name]
    for name, values in of_json.items():
        members = columns.get(name, values)
        columns[name] = [value if own is _NOTHING else own for own, value in zip(members, values, strict=True)]
    made = {
        name: _array(file, name, [None if value is _NOTHING else value for value in values], first_row)
        for name, values in sorted(columns.items())
    }
    return pa.table(made or {KEY: samples.keys}).replace_schema_metadata({_FIELDS: json.dumps(list(fields))})


def _decoded(file: str, samples: Samples, suffixes: Collection[str]) -> Iterator[tuple[int, str, Any]]:
    """Row, suffix and value of members, in the order of the archive."""
    members = _members(samples, suffixes)
    rows, kinds = samples.rows()[members].tolist(), samples.kinds[members].tolist()
    firsts, sizes = samples.firsts[members].tolist(), samples.sizes[members].tolist()
    with open(file, "rb", buffering=0) as handle:
        descriptor = handle.fileno()
        for row, kind, first, size in zip(rows, kinds, firsts, sizes, strict=True):
            suffix = samples.suffixes[kind]
            content = os.pread(descriptor, size, first)
            if len(content) != size:
                raise ValueError(f"{file} has changed while it was read; start again.")
            try:
                yield row, suffix, _decoder(suffix.lower())(content)
            except KeyError as error:
                raise ValueError(
                    f"{file}: the member {samples.keys[row]}.{suffix} is no picture, and no text that can be read; "
                    "write it as .txt, .json or .cls."
                ) from error
            except ValueError as error:
                raise ValueError(
                    f"{file}: the member {samples.keys[row]}.{suffix} cannot be read ({error}); correct it."
                ) from error


def _decoder(suffix: str) -> Callable[[bytes], Any]:
    """That of `datasets` for a suffix; the commonest without importing it, which takes longer than many an archive."""
    if suffix in JSON:
        return json.loads
    if suffix == "txt":
        return bytes.decode
    from datasets.packaged_modules.webdataset.webdataset import WebDataset

    return WebDataset.DECODERS[suffix]


def _array(file: str, name: str, values: list[Any], first_row: int) -> pa.Array:
    try:
        return pa.array(values)
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise ValueError(f"{file}, column {name!r} mixes types ({error}); use one type in all rows.") from error
    except UnicodeEncodeError as error:
        row = first_fault(values)
        raise ValueError(no_half_characters(f"{file}, row {first_row + row}", name, values[row])) from error
