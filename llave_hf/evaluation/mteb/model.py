"""An encoder behind mteb's interface."""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from mteb.abstasks.task_metadata import TaskMetadata
from mteb.models.abs_encoder import AbsEncoder
from mteb.types import PromptType
from sentence_transformers import SentenceTransformer
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from llave_hf.encoding.content_keys import ContentKeys
from llave_hf.encoding.model_identity import identify, path_revision
from llave_hf.encoding.sentence_transformer import load_encoder
from llave_hf.evaluation.retrieval.vectors import CHUNK_PIXELS, Embeddings, as_array, pixels_of

from .batches import read_batches
from .model_meta import dimensions, model_meta
from .prompts import Prompts

CHUNK_INPUTS = 4096  # encoded by one call: enough to put alike lengths together


class LlaveMtebModel(AbsEncoder):
    """An encoder as mteb takes it, for tasks of text, image and video.

    Each distinct input of a task is encoded once, by content, whatever batches mteb makes. Prompts: see
    :class:`llave_hf.evaluation.mteb.prompts.Prompts`.

    Args:
        model: A model folder or Hub id, a `SentenceTransformer`, or any object with sentence-transformers' `encode`.
        revision: Of a Hub id. Of anything else: what tells its weights from others', where the caller knows better.
        device: Where a model that is opened here goes; None takes the GPU if there is one.
        prompts: By mteb's names of tasks, task types and roles; `{}`: none; None: the model's own, else MMEB's
            instructions, if it has them.
        meta: Fields of `mteb.ModelMeta` that are not in the model or its folder, or are others there.
        **kwargs: For `from_pretrained` of a model that is opened here.

    Raises:
        UserError: `prompts` has a name that mteb does not know.
        pydantic.ValidationError: `meta` has a field that mteb does not know.
    """

    def __init__(
        self,
        model: Any,
        revision: str | None = None,
        *,
        device: str | None = None,
        prompts: Mapping[str, str] | None = None,
        meta: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        source = model if isinstance(model, (str, os.PathLike)) else None
        if source is None:
            self.model, known = model, revision
        else:
            opened = {**kwargs, "revision": revision} if revision else kwargs
            self.model = load_encoder(source, device=device, **opened)
            known = path_revision(source, **opened)
        self.prompts = Prompts(self.model, prompts)
        self.identity = identify(self.model, known)
        # mteb keeps results by name, revision and these: other prompts are another experiment
        experiment = {} if prompts is None else {"experiment_kwargs": {"prompts": dict(prompts)}}
        self.mteb_model_meta = model_meta(
            self.model,
            source,
            revision=self.identity.revision,
            use_instructions=self.prompts.used,
            loader=type(self),
            changes={**experiment, **(meta or {})},
        )

    def encode(
        self,
        inputs: DataLoader[Any],
        *,
        task_metadata: TaskMetadata,
        hf_split: str,
        hf_subset: str,
        prompt_type: PromptType | None = None,
        show_progress_bar: bool = True,
        **kwargs: Any,
    ) -> Embeddings:
        """Embed what the loader gives.

        Args:
            inputs: Batches with some of the columns `text`, `image` (one or several) and `video`.
            task_metadata: Decides, with `prompt_type`, about the prompt.
            hf_split: Not used, likewise `hf_subset`.
            **kwargs: For the encoder's own `encode`, such as `batch_size`.

        Returns:
            (n, D) float32, in the order of the loader.

        Raises:
            ValueError: The task has audio or none of the modalities, or an input cannot be read.
        """
        instruction = self.prompts.instruction(task_metadata, prompt_type)
        takes_prompt = isinstance(self.model, SentenceTransformer)
        function = self._function(prompt_type)
        if takes_prompt:  # it may leave the prompt out of the pooling
            function = partial(function, prompt=instruction.prompt)
        distinct = _DistinctVectors(partial(function, show_progress_bar=False, **kwargs))
        rows = tqdm(read_batches(inputs), "Encoding", _length(inputs), disable=not show_progress_bar, unit="input")
        numbers = [distinct.add(instruction.apply(entry, with_prompt=not takes_prompt)) for entry in rows]
        if not numbers:
            return np.empty((0, dimensions(self.model) or 0), dtype=np.float32)
        return distinct.vectors()[numbers]

    def similarity(self, embeddings1: Any, embeddings2: Any) -> Any:
        """(n, m) similarities, the model's own where it has some."""
        return self._own("similarity", embeddings1, embeddings2)

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> Any:
        """(n,) similarities, the model's own where it has some."""
        return self._own("similarity_pairwise", embeddings1, embeddings2)

    def _own(self, name: str, *embeddings: Any) -> Any:
        if isinstance(self.model, SentenceTransformer):
            return getattr(self.model, name)(*map(torch.as_tensor, embeddings))
        return getattr(super(), name)(*embeddings)

    def _function(self, role: PromptType | None) -> Callable[..., Any]:
        """`encode_query` and `encode_document` where there are roles and methods: a model may route by them."""
        if isinstance(self.model, SentenceTransformer) and role is not None:
            return self.model.encode_query if role == PromptType.query else self.model.encode_document
        return self.model.encode


class _DistinctVectors:
    """Numbers inputs by content, and encodes each once, some thousand or some hundred megabytes at a time."""

    def __init__(self, encode: Callable[[list[Any]], Any]) -> None:
        self._encode = encode
        self._keys = ContentKeys()
        self._numbers: dict[Hashable, int] = {}
        self._waiting: list[Any] = []
        self._pixels = 0
        self._parts: list[Embeddings] = []

    def add(self, entry: Any) -> int:
        """The row of its vector."""
        key = self._keys.key(entry)
        if key not in self._numbers:
            self._numbers[key] = len(self._numbers)
            self._waiting.append(entry)
            self._pixels += pixels_of(entry)
            if len(self._waiting) == CHUNK_INPUTS or self._pixels >= CHUNK_PIXELS:
                self._flush()
        return self._numbers[key]

    def vectors(self) -> Embeddings:
        """(distinct inputs, D)."""
        if self._waiting:
            self._flush()
        return np.concatenate(self._parts)

    def _flush(self) -> None:
        self._parts.append(as_array(self._encode(self._waiting)))
        self._waiting, self._pixels = [], 0


def _length(loader: DataLoader[Any]) -> int | None:
    return len(loader.dataset) if hasattr(loader.dataset, "__len__") else None
