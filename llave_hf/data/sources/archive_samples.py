"""The samples of archives in WebDataset's layout: members of one sample stand side by side, and share their name up to
the dot. Names are split as `datasets` does."""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from llave_hf.data.stored.kept import kept_table

from .tar_headers import Members, members_of

_STRINGS = pa.large_string()
_SPLIT = r"^(?P<key>(?:.*/|)[^.]+)[.](?P<suffix>[^/]*)$"
_HIDDEN = r"(?:^|/)(?:\.|__)[^/]*$"  # macOS's and others' own files
_SUFFIXES = b"suffixes"


@dataclass(frozen=True)
class Samples:
    """Neighbouring samples of an archive.

    Attributes:
        keys: What the names of a sample's members begin with: large_string `(n,)`.
        starts: Where its first member's header begins, in bytes: int64 `(n,)`.
        offsets: Sample r has the members `offsets[r]:offsets[r + 1]`: int64 `(n + 1,)`.
        suffixes: What stands behind the keys, each once, in the order of the archive.
        kinds: Which of them each member has: int32 `(m,)`.
        firsts: Where each member's bytes begin: int64 `(m,)`.
        sizes: How many it has.
    """

    keys: pa.Array
    starts: np.ndarray
    offsets: np.ndarray
    suffixes: list[str]
    kinds: np.ndarray
    firsts: np.ndarray
    sizes: np.ndarray

    def __len__(self) -> int:
        return len(self.starts)

    def rows(self) -> np.ndarray:
        """Which sample each member belongs to: int64 `(m,)`."""
        return np.repeat(np.arange(len(self)), np.diff(self.offsets))


def samples_of(file: str, start: int = 0, rows: int | None = None) -> Samples:
    """Samples of an archive, in its order; only headers are read.

    Args:
        file: The archive.
        start: Where to begin: one of the `starts` of its samples.
        rows: At most so many; None: all.

    Raises:
        ValueError: It is broken or compressed, or not in WebDataset's layout; the message names file and member.
    """
    keys, suffixes = [pa.array([], _STRINGS)], [pa.array([], _STRINGS)]
    places = [np.zeros((3, 0), np.int64)]
    begun, last = 0, None
    for members in members_of(file, start):
        own, named = _named(members)
        keys.append(named.field("key"))
        suffixes.append(named.field("suffix"))
        places.append(np.stack([members.starts, members.firsts, members.sizes])[:, own])
        if rows is not None and len(named):
            begun += int(_changes(keys[-1]).sum()) + (keys[-1][0] != last)
            last = keys[-1][-1]
            if begun > rows:
                break
    every = pa.concat_arrays(keys)
    begins = np.flatnonzero(np.concatenate([[True], _changes(every)])) if len(every) else np.zeros(0, np.int64)
    offsets = np.append(begins, len(every)).astype(np.int64)
    if rows is not None:
        offsets = offsets[: rows + 1]
    count = int(offsets[-1])
    encoded = pa.concat_arrays(suffixes).slice(0, count).dictionary_encode()
    starts, firsts, sizes = np.concatenate(places, axis=1)
    samples = Samples(
        keys=every.take(pa.array(offsets[:-1])),
        starts=starts[offsets[:-1]],
        offsets=offsets,
        suffixes=encoded.dictionary.to_pylist(),
        kinds=encoded.indices.to_numpy(zero_copy_only=False),
        firsts=firsts[:count],
        sizes=sizes[:count],
    )
    _check(file, samples)
    return samples


def _named(members: Members) -> tuple[np.ndarray, pa.StructArray]:
    """Which members belong to samples, and their keys and suffixes."""
    named = pc.extract_regex(members.names, _SPLIT)
    visible = pc.invert(pc.match_substring_regex(members.names, _HIDDEN))
    own = np.flatnonzero(pc.and_(pc.is_valid(named), visible).to_numpy(zero_copy_only=False))
    return own, named if len(own) == len(named) else named.take(pa.array(own))


def _changes(keys: pa.Array) -> np.ndarray:
    """Where a key differs from the one before it: bool `(n - 1,)`."""
    if len(keys) < 2:
        return np.zeros(0, bool)
    return pc.not_equal(keys.slice(1), keys.slice(0, len(keys) - 1)).to_numpy(zero_copy_only=False)


def _check(file: str, samples: Samples) -> None:
    numbers = samples.keys.dictionary_encode().indices.to_numpy(zero_copy_only=False)
    again = _first_repeat(numbers)
    if again is not None:
        raise ValueError(
            f"{file}: the members of sample {samples.keys[again].as_py()!r} do not stand side by side; write the "
            "archive in the order of its names."
        )
    rows = samples.rows()
    twice = _first_repeat(rows * len(samples.suffixes) + samples.kinds)
    if twice is not None:
        name = f"{samples.keys[int(rows[twice])].as_py()}.{samples.suffixes[samples.kinds[twice]]}"
        raise ValueError(f"{file} has the member {name!r} twice; write the archive anew.")


def _first_repeat(numbers: np.ndarray) -> int | None:
    firsts = np.unique(numbers, return_index=True)[1]
    if len(firsts) == len(numbers):
        return None
    repeats = np.ones(len(numbers), bool)
    repeats[firsts] = False
    return int(repeats.argmax())


def all_samples(file: str, state: str | None) -> Samples:
    """All samples of an archive; they are kept, and found at once at the next start.

    Args:
        file: The archive.
        state: Its [`state_of`].

    Raises:
        ValueError: See [`samples_of`].
    """
    table = kept_table(file, state, "samples", lambda: _as_table(samples_of(file)))
    members = table.column("members").combine_chunks()
    parts = dict(zip(("kinds", "firsts", "sizes"), members.flatten().flatten(), strict=True))
    return Samples(
        keys=table.column("key").combine_chunks(),
        starts=table.column("start").to_numpy(),
        offsets=members.offsets.to_numpy(),
        suffixes=json.loads(table.schema.metadata[_SUFFIXES]),
        **{name: values.to_numpy() for name, values in parts.items()},
    )


def _as_table(samples: Samples) -> pa.Table:
    members = pa.StructArray.from_arrays(
        [pa.array(samples.kinds), pa.array(samples.firsts), pa.array(samples.sizes)], ["kind", "first", "size"]
    )
    columns = {
        "key": samples.keys,
        "start": pa.array(samples.starts),
        "members": pa.LargeListArray.from_arrays(pa.array(samples.offsets), members),
    }
    return pa.table(columns).replace_schema_metadata({_SUFFIXES: json.dumps(samples.suffixes)})
