"""Opens what `train_data` names without reading it: finds only where its rows lie."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from llave_hf.data.sources.indexed import (
    SubsetFiles,
    find_files,
    hub_errors,
    hub_splits,
    is_saved,
    open_saved,
    with_media_root,
)
from llave_hf.data.sources.specs import SourceSpec

from .shards import Shard, saved_shards, shards_of


@dataclass(frozen=True)
class StreamedSubset(SubsetFiles):
    """One subset whose rows are read when they are needed: one task."""

    shards: tuple[Shard, ...]


def open_stream(spec: SourceSpec) -> list[StreamedSubset]:
    """Finds the subsets that a specification names, as [`open_source`] does, and their shards.

    Parquet files tell their rows in their last bytes, here as on the Hub; the lines of JSONL files are counted.

    Raises:
        ValueError: It does not exist, cannot be read or streamed, or a subset or the split is not there.
    """
    if is_saved(spec):
        name, saved = open_saved(spec)
        return [_subset(name, saved_shards(spec.path, saved, spec), with_media_root(spec, spec.path))]
    found = find_files(spec)
    if found is None:
        with hub_errors(spec):
            return list(_open_hub(spec))
    return [
        _subset(
            one.name,
            [shard for path in one.files for shard in shards_of(str(path), spec)],
            with_media_root(spec, one.root),
        )
        for one in found
    ]


def _open_hub(spec: SourceSpec) -> Iterator[StreamedSubset]:
    for name, files in hub_files(spec):
        yield _subset(name, [shard for file in files for shard in shards_of(file, spec)], spec)


def hub_files(spec: SourceSpec, *, all_splits: bool = False) -> Iterator[tuple[str, list[str]]]:
    """The parquet files of each subset of a Hub data set, as addresses with its commit; see [`hub_splits`].

    Raises:
        ValueError: It has other files. OSError: The Hub cannot be asked.
    """
    import datasets

    for name, split in hub_splits(spec, all_splits=all_splits):
        builder = datasets.load_dataset_builder(spec.path, name, revision=spec.revision)
        files = (builder.config.data_files or {}).get(split, [])
        if not files or not all(str(file).endswith(".parquet") for file in files):
            raise ValueError(
                f"{spec.path}/{name}, {split} does not lie on the Hub as parquet files, which a stream needs; "
                "download it and give its folder, or leave `streaming` out."
            )
        yield name, [str(file) for file in files]


def _subset(name: str, shards: Sequence[Shard], spec: SourceSpec) -> StreamedSubset:
    rows_of_files: Counter[str] = Counter()
    for shard in shards:
        rows_of_files[shard.file] += shard.rows
    return StreamedSubset(name, tuple(rows_of_files.items()) or ((spec.path, 0),), spec, tuple(shards))
