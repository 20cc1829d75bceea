"""Reads the entries of a recipe's `train_data`: a name, or a mapping with options."""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from difflib import get_close_matches
from typing import Any, TypeAlias

from llave_hf.data.described.names import JUDGEMENTS, KNOWN
from llave_hf.data.described.sides import Description, description_from
from llave_hf.runtime.places import check_folder

TrainData: TypeAlias = str | Mapping[str, Any] | Sequence[str | Mapping[str, Any]]


@dataclass(frozen=True)
class SourceSpec:
    """One entry of `train_data`.

    Attributes:
        path: A Hub id; a folder with one subfolder a subset, or with the files of one subset; a folder written by
            `Dataset.save_to_disk`; a .parquet, .jsonl, .json, .csv or .tar file, or several as
            `shards/{00000..00099}.tar` or `shards/*.parquet`.
        subsets: Names of the subsets to read; None reads all.
        split: None reads `original` (MMEB's), else `train`, else the only one there is.
        weight: How often a row of this source is drawn, beside a row of another.
        max_samples: At most so many rows of each subset.
        media_root: What paths of pictures are relative to; None is the folder of the source itself.
        revision: Of a Hub data set.
        query, positive: What the columns mean, as templates: a text, `"Find: {caption}"`, or a mapping of `text`,
            `image` and `video`. None: the columns have MMEB's names.
        negatives: The same of negatives, whose columns may hold lists; or a list of such.
        ignore: Columns that are there for something else.
        name: Of the task, where the source has one subset, in place of the subset's: a source may stand in two entries
            that read it differently.
    """

    path: str
    subsets: Sequence[str] | None = None
    split: str | None = None
    weight: float = 1.0
    max_samples: int | None = None
    media_root: str | None = None
    revision: str | None = None
    query: Any = None
    positive: Any = None
    negatives: Any = None
    ignore: Sequence[str] = ()
    name: str | None = None

    def __post_init__(self) -> None:
        if not self.weight > 0:
            raise ValueError(f"weight of {self.path!r} is {self.weight}; it must be above 0: leave the source out.")
        if self.max_samples is not None and self.max_samples < 1:
            raise ValueError(f"max_samples of {self.path!r} is {self.max_samples}; it must be at least 1, or absent.")
        if isinstance(self.ignore, str) or not all(isinstance(name, str) for name in self.ignore):
            raise ValueError(f"ignore of {self.path!r} is {self.ignore!r}; give a list of columns.")
        self.description()

    def description(self) -> Description | None:
        """What the columns mean; None: what their names say.

        Raises:
            FieldError: It cannot be used; the message names the field.
        """
        return self._description

    @functools.cached_property
    def _description(self) -> Description | None:
        if self.query is None and self.positive is None and self.negatives is None:
            return None
        return description_from(self.query, self.positive, self.negatives, f"train_data {self.path!r}")

    def columns(self) -> frozenset[str]:
        """The columns that are read where they are there."""
        described = self.description()
        return KNOWN if described is None else frozenset((*described.columns(), *JUDGEMENTS))


def parse_specs(train_data: TrainData, **defaults: Any) -> list[SourceSpec]:
    """`train_data` as a list of specifications, each with a `media_root` that is there, or with none.

    Raises:
        ValueError: As [`read_specs`], or a `media_root` is not there.
    """
    specs = read_specs(train_data, **defaults)
    for spec in specs:
        if spec.media_root is not None:
            check_folder(spec.media_root, "media_root")
    return specs


def read_specs(train_data: TrainData, **defaults: Any) -> list[SourceSpec]:
    """`train_data` as a list of specifications; `defaults` hold where an entry does not say otherwise.

    Raises:
        ValueError: A key does not exist (the message names the nearest), `path` is absent, or there is no entry.
    """
    entries = [train_data] if isinstance(train_data, (str, os.PathLike, Mapping)) else list(train_data)
    if not entries:
        raise ValueError("train_data is empty; give a Hub id, a folder or a file.")
    known = [field.name for field in fields(SourceSpec)]
    specs = []
    for entry in entries:
        given = dict(entry) if isinstance(entry, Mapping) else {"path": os.fspath(entry)}
        for key in given:
            if key not in known:
                raise ValueError(f"train_data has no key {key!r}{suggest(key, known)}; there are {', '.join(known)}.")
        if not given.get("path"):
            raise ValueError(f"an entry of train_data has no `path` ({given}); give a Hub id, a folder or a file.")
        specs.append(SourceSpec(**{**defaults, **given}))
    return specs


def suggest(name: str, known: Sequence[str]) -> str:
    """A question that names the nearest of the known names, or nothing."""
    near = get_close_matches(name, known, n=1, cutoff=0.5)
    return f"; did you mean {near[0]!r}?" if near else ""
