"""What a run of `llave embed` is asked for."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llave_hf.encoding.model_identity import path_revision
from llave_hf.errors import UserError

from .model import prompt_text
from .parts import ROWS
from .quantizing import PRECISIONS


@dataclass(frozen=True)
class EmbedSettings:
    """The options of `llave embed`.

    Attributes:
        source: See [`open_source`].
        model: A folder or a Hub id.
        output: The folder of the vectors.
        input: What of a row is embedded: a template, or a mapping of `text`, `image` and `video`, as a side in a
            recipe; None: columns of these names, and MMEB's instruction beside a picture or video without a text.
        id: The columns that are kept; None: all of texts, numbers, truth values, dates and times.
        media_root, revision: As in a recipe's `train_data`.
        split, subsets: Only these of the source; None: all.
        prompt: What stands before every text.
        prompt_name: The same by its name in the model.
        dimensions: How many of the first are kept; None: all.
        precision: One of `PRECISIONS`.
        dtype: What the model computes in; None: see [`load_encoder`].
        device: Where; None: its own GPU, if there is one.
        rows_per_shard: See [`parts_of`]; None: as the folder has it, else `ROWS`.
        max_tokens, num_workers, threads: Of a forward; threads that open media; threads that compute.
        refresh: Embed anew what has changed in the source, and drop what is gone.
    """

    source: str
    model: str
    output: str
    input: Any = None
    id: Sequence[str] | None = None
    media_root: str | None = None
    split: str | None = None
    subsets: Sequence[str] | None = None
    revision: str | None = None
    prompt: str | None = None
    prompt_name: str | None = None
    dimensions: int | None = None
    precision: str = "float32"
    dtype: str | None = None
    device: str | None = None
    rows_per_shard: int | None = None
    max_tokens: int | None = None
    num_workers: int | None = None
    threads: int | None = None
    refresh: bool = False

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise UserError(f"precision is {self.precision!r}; choose one of {', '.join(PRECISIONS)}.")
        for name in ("dimensions", "rows_per_shard", "max_tokens", "threads"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"--{name} is {value}; it must be at least 1.")
        if self.num_workers is not None and self.num_workers < 0:
            raise UserError(f"--num_workers is {self.num_workers}; it must not be negative.")

    def shared(self) -> dict[str, Any]:
        """What all vectors of a folder share, as far as it is known before the model is opened."""
        name = os.path.abspath(self.model) if os.path.isdir(self.model) else self.model
        shared: dict[str, Any] = {
            "model": name,
            "model_revision": path_revision(self.model),
            "prompt": prompt_text(self.model, self.prompt, self.prompt_name),
            "input": dict(self.input) if isinstance(self.input, Mapping) else self.input,
            "id": None if self.id is None else list(self.id),
            "precision": self.precision,
            "media_root": None if self.media_root is None else os.path.abspath(self.media_root),
        }
        if self.dimensions is not None:
            shared["dimensions"] = self.dimensions
        if self.rows_per_shard is not None:
            shared["rows_per_shard"] = self.rows_per_shard
        return shared

    @property
    def rows(self) -> int:
        """Of a shard of a new folder."""
        return ROWS if self.rows_per_shard is None else self.rows_per_shard
