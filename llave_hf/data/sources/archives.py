"""Shards of tar in WebDataset's layout: members of one sample stand side by side and share their name up to the dot.

`00/17.jpg`, `00/17.json` and `00/17.txt` are a row with the columns `jpg`, `json`, `txt` and `__key__` (`00/17`),
and with each field of the JSON that is no column yet. `image` is the sample's picture, whatever its suffix. Names are
split and fields decoded as `datasets` does; pictures stay in the archive, and only their places are read.
"""

from __future__ import annotations

import os
import tarfile
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import IO, Any

import pyarrow as pa

from llave_hf.data.stored.columns import PLACES
from llave_hf.data.stored.pictures import StoredPicture

from .texts import first_fault, no_half_characters

KEY = "__key__"
IMAGE = "image"
ALIAS = "alias"  # marks a field whose content is read under another name
JSON = ("json", "jsn")
PICTURES = frozenset({"png", "jpg", "jpeg", "webp", "gif", "bmp", "tif", "tiff", "ppm", "avif", "heic", "heif"})
Span = tuple[int, int]  # first byte, number of bytes


@dataclass
class Member:
    """A sample of an archive.

    Attributes:
        key: What the names of its members begin with.
        start: Where its first member's header begins, in bytes.
        spans: Of each member, by what follows the key.
    """

    key: str
    start: int
    spans: dict[str, Span] = field(default_factory=dict)


def samples_of(file: str, start: int = 0) -> Iterator[Member]:
    """The samples of an archive, in its order; only headers are read.

    Args:
        file: The archive.
        start: Where to begin, the `start` of one of its samples.

    Raises:
        ValueError: It is broken or compressed, or not in WebDataset's layout; the message names file and member.
    """
    from datasets.packaged_modules.webdataset.webdataset import base_plus_ext

    size = os.path.getsize(file)
    seen: set[str] = set()
    current: Member | None = None
    for entry in _entries(file, start, size):
        key, suffix = base_plus_ext(entry.name)
        if key is None or os.path.basename(entry.name).startswith((".", "__")):
            continue
        if current is None or current.key != key:
            if current is not None:
                yield current
            if key in seen:
                raise ValueError(
                    f"{file}: the members of sample {key!r} do not stand side by side; write the archive in the order "
                    "of its names."
                )
            seen.add(key)
            current = Member(key, entry.offset)
        if suffix in current.spans:
            raise ValueError(f"{file} has the member {entry.name!r} twice; write the archive anew.")
        current.spans[suffix] = (entry.offset_data, entry.size)
    if current is not None:
        yield current


def _entries(file: str, start: int, size: int) -> Iterator[tarfile.TarInfo]:
    with open(file, "rb") as handle:
        handle.seek(start)
        try:
            archive = tarfile.open(fileobj=handle, mode="r:") if size else None  # noqa: SIM115 (the handle is closed)
        except tarfile.TarError as error:
            raise ValueError(f"{file} is no tar archive ({error}); unpack it if it is compressed.") from error
        name = "its first member"
        try:
            while archive is not None and (entry := archive.next()) is not None:
                name = f"{entry.name!r}"
                archive.members = []  # type: ignore[attr-defined]  # else it keeps all of them
                if entry.offset_data + entry.size > size:
                    raise ValueError(f"{file} ends inside the member {name}; copy the archive anew.")
                if entry.isreg():
                    yield entry
        except tarfile.TarError as error:
            raise ValueError(f"{file} is broken behind {name} ({error}); copy the archive anew.") from error
        if archive is not None:
            handle.seek(archive.offset)
            if any(handle.read(tarfile.BLOCKSIZE)):  # tarfile takes a broken header for the end
                raise ValueError(f"{file} is broken behind {name}; copy the archive anew.")


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

    Args:
        file: The archive.
        wanted: Columns to read, beside `__key__`.
        start: See [`samples_of`].
        first_row: The first sample's number in the archive.
        rows: How many; None: all.
        with_digests: Whether to read the pictures' bytes for digests of them.

    Returns:
        The rows, and all the fields that they have.

    Raises:
        ValueError: See [`samples_of`]; or a field cannot be decoded.
    """
    columns: dict[str, list[Any]] = {KEY: []}
    fields: dict[str, pa.Field] = {}
    with open(file, "rb") as contents:
        for number, sample in enumerate(samples_of(file, start)):
            if number == rows:
                break
            row: dict[str, Any] = {
                KEY: sample.key,
                **_pictures(file, sample, first_row + number, wanted, with_digests),
            }
            for suffix in sample.spans:
                if suffix.lower() in JSON or (suffix in wanted and suffix.lower() not in PICTURES):
                    row |= _fields(contents, file, sample, suffix, row)
            for name in (*row, *sample.spans):
                if name not in fields:
                    fields[name] = _field(name, wanted)
            for name in (row.keys() & set(wanted)) - columns.keys():
                columns[name] = [None] * number
            for name, values in columns.items():
                values.append(row.get(name))
    made = {name: _array(file, name, values, first_row) for name, values in columns.items()}
    return pa.table(made), pa.schema(list(fields.values()))


def _field(name: str, wanted: Collection[str]) -> pa.Field:
    """What a column is; those whose content is read under another name are no column of their own."""
    picture = name.lower() in PICTURES or name == IMAGE
    other = name in (KEY, IMAGE) or name.lower() in JSON or (picture and IMAGE in wanted)
    return pa.field(name, PLACES if picture else pa.large_string(), metadata={ALIAS: ""} if other else None)


def _pictures(
    file: str, sample: Member, number: int, wanted: Collection[str], with_digests: bool
) -> dict[str, bytes | None]:
    own = [suffix for suffix in sample.spans if suffix.lower() in PICTURES]
    named = {suffix: suffix for suffix in own}
    if len(own) == 1:
        named.setdefault(IMAGE, own[0])
    row: dict[str, bytes | None] = {}
    for name, suffix in named.items():
        place = StoredPicture(file, number, suffix, 0, sample.spans[suffix])
        if with_digests and name in wanted:
            place = place.with_digest()
        row[name] = place.encoded().encode()
    return row


def _fields(contents: IO[bytes], file: str, sample: Member, suffix: str, row: dict[str, Any]) -> dict[str, Any]:
    from datasets.packaged_modules.webdataset.webdataset import WebDataset

    first, size = sample.spans[suffix]
    contents.seek(first)
    content = contents.read(size)
    try:
        value = WebDataset.DECODERS[suffix.lower()](content)
    except KeyError as error:
        raise ValueError(
            f"{file}: the member {sample.key}.{suffix} is no picture, and no text that can be read; write it as .txt, "
            ".json or .cls."
        ) from error
    except ValueError as error:
        raise ValueError(f"{file}: the member {sample.key}.{suffix} cannot be read ({error}); correct it.") from error
    if suffix.lower() not in JSON or not isinstance(value, dict):
        return {suffix: value}
    return {suffix: value, **{name: inner for name, inner in value.items() if name not in row}}


def _array(file: str, name: str, values: list[Any], first_row: int) -> pa.Array:
    kind = PLACES if any(isinstance(value, bytes) for value in values) else None
    try:
        return pa.array([b"" if value is None else value for value in values], kind) if kind else pa.array(values)
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise ValueError(f"{file}, column {name!r} mixes types ({error}); use one type in all rows.") from error
    except UnicodeEncodeError as error:
        row = first_fault(values)
        raise ValueError(no_half_characters(f"{file}, row {first_row + row}", name, values[row])) from error
