"""`LlaveEmbedder`: vectors of batches of rows, for the workers of Ray Data, Spark, Daft and datasets."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from llave_hf.errors import UserError

from .batches import chunk_of, column_names, holds_media, with_vectors
from .inputs import columns_of, inputs_of, side_of
from .model import CorpusModel, prompt_text
from .quantizing import PRECISIONS, check_dimensions, vector_column, vector_type
from .shards import EMBEDDING, ERROR

_models: dict[tuple[Any, ...], CorpusModel] = {}  # of this process
_opening = threading.Lock()


@dataclass(frozen=True)
class LlaveEmbedder:
    """Embeds batches of rows; holds plain values only, so that it can be sent to workers.

    >>> embed = LlaveEmbedder("quickstart/model", input={"image": "bytes"})  # doctest: +SKIP
    >>> dataset.map_batches(embed, batch_format="pyarrow")  # doctest: +SKIP

    The model is opened in the worker that first embeds something, once a process, whatever number of embedders there
    are. A batch is an Arrow table or record batch, a pandas frame, or a mapping of numpy columns or lists; what comes
    back is of the same kind, with two more columns: `embedding`, null where a row cannot be embedded, and `error`, the
    reason. In numpy columns, vectors are an array of objects: an array `(D,)` a row, or None. Of an iterator of record
    batches, as Spark's `mapInArrow` gives it, an iterator of such comes back.

    Attributes:
        model: A folder that all workers see, or a Hub id.
        input: What of a row is embedded, as `llave embed --input` has it; None: columns text, image and video.
            Pictures are bytes, the Hub's `{"bytes", "path"}`, arrays, opened pictures, or paths; videos are paths.
        columns: Those that stay; None: all but those that hold pictures themselves.
        media_root: What paths are relative to and may not leave; None: the caller vouches for them.
        prompt, prompt_name: What stands before every text, or its name in the model.
        dimensions: How many of the first are kept, normalised again; None: all.
        precision: `float32`, `float16`, `int8` or `ubinary`.
        ranges: For int8, the smallest and largest value of each dimension `(2, D)`, as `_manifest.json` of a folder of
            `llave embed` has them.
        dtype, device: What the model computes in, and where; None: as [`load_encoder`].
        threads: That compute on a CPU; None: as PyTorch has it.
        max_tokens, num_workers: Of a forward, and threads that open media; None: by the device and the cores.
        fixed_size: Whether Arrow gets lists of a fixed size; Spark knows only others.

    Raises:
        UserError: The settings contradict each other, or a column is not there.
    """

    model: str
    input: Any = None
    columns: Sequence[str] | None = None
    media_root: str | None = None
    prompt: str | None = None
    prompt_name: str | None = None
    dimensions: int | None = None
    precision: str = "float32"
    ranges: Sequence[Sequence[float]] | None = None
    dtype: str | None = None
    device: str | None = None
    threads: int | None = None
    max_tokens: int | None = None
    num_workers: int | None = None
    fixed_size: bool = True

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise UserError(f"precision is {self.precision!r}; choose one of {', '.join(PRECISIONS)}.")
        if (self.precision == "int8") != (self.ranges is not None):
            raise UserError("int8 needs ranges, and nothing else does: see _manifest.json of `llave embed`.")

    def __call__(self, batch: Any) -> Any:
        """A batch with vectors and errors, or an iterator of such; see the class."""
        if isinstance(batch, Iterator):
            return map(self._embedded, batch)
        return self._embedded(batch)

    def _embedded(self, batch: Any) -> Any:
        names = column_names(batch)
        side = side_of(self.input, names, "the batch")
        chunk = chunk_of(batch, side, columns_of(side))
        model = self._model()
        dimensions = check_dimensions(self.dimensions, self.precision, model.dimensions)
        is_plain = self.input is None and self.prompt is None and self.prompt_name is None
        entries: dict[int, Any] = {}
        errors: dict[int, str] = {}
        prompts = model.document_prompts() if is_plain else None
        for place, entry, error, _ in inputs_of(chunk, side, self.media_root, prompts):
            if error is None:
                entries[place] = entry
            else:
                errors[place] = error
        vectors, reasons = model.vectors_at(entries, len(chunk))
        errors |= reasons
        ranges = None if self.ranges is None else np.asarray(self.ranges, dtype=np.float32)
        column = vector_column(vectors, dimensions, self.precision, ranges)
        if not self.fixed_size:
            column = column.cast(vector_type(dimensions, self.precision, fixed=False))
        told = pa.array([errors.get(place) for place in range(len(chunk))], pa.string())
        return with_vectors(batch, self._kept(batch, names), {EMBEDDING: column, ERROR: told})

    def _kept(self, batch: Any, names: Sequence[str]) -> list[str]:
        if self.columns is None:
            return [name for name in names if name not in (EMBEDDING, ERROR) and not holds_media(batch, name)]
        absent = [name for name in self.columns if name not in names]
        if absent:
            raise UserError(f"columns: there is no {absent[0]!r} in the batch; there are {', '.join(names)}.")
        return list(self.columns)

    def _model(self) -> CorpusModel:
        key = (self.model, self.prompt, self.prompt_name, self.dtype, self.device, self.max_tokens, self.num_workers)
        with _opening:
            if key not in _models:
                if self.threads is not None:
                    import torch

                    torch.set_num_threads(self.threads)
                _models[key] = CorpusModel(
                    self.model,
                    device=self.device,
                    dtype=self.dtype,
                    prompt=prompt_text(self.model, self.prompt, self.prompt_name),
                    max_tokens=self.max_tokens,
                    num_workers=self.num_workers,
                )
            return _models[key]
