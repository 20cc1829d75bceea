"""A model as a corpus uses it: opened once, vectors of a list with reasons for what has none, and what it is."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from llave_hf.encoding.meter import Meter
from llave_hf.errors import UserError
from llave_hf.runtime.places import find_file


class CorpusModel:
    """A LLaVE model.

    Args:
        path: A folder or a Hub id.
        device: None: the GPU, if there is one.
        dtype: What it computes in; None: see [`load_encoder`].
        prompt: What stands before every text; None: the model's own default.
        max_tokens: Of a forward, padding included; None: by the device.
        num_workers: Threads that open media; None: one a core, at most eight.

    Raises:
        UserError: It is not there, or no LLaVE model.
    """

    def __init__(
        self,
        path: str,
        *,
        device: str | None = None,
        dtype: str | None = None,
        prompt: str | None = None,
        max_tokens: int | None = None,
        num_workers: int | None = None,
    ) -> None:
        from llave_hf.encoding.encoder import LlaveEncoder
        from llave_hf.encoding.sentence_transformer import LlaveSentenceTransformer, load_encoder

        self.encoder = load_encoder(path, device=device, dtype=dtype)
        self._options: dict[str, Any] = {}
        if isinstance(self.encoder, LlaveSentenceTransformer):
            self._options = {"max_tokens": max_tokens, "num_workers": num_workers, "show_progress_bar": False}
            self._options |= {} if prompt is None else {"prompt": prompt}
        elif not isinstance(self.encoder, LlaveEncoder):
            raise UserError(f"{path} is no LLaVE model; sentence-transformers' own encode embeds with it.")
        elif prompt:
            raise UserError(
                f"{path} has no modules.json, and so no prompts; leave the prompt out, or convert the model."
            )
        module = self.encoder if isinstance(self.encoder, LlaveSentenceTransformer) else self.encoder.model
        self.dtype = str(next(module.parameters()).dtype).removeprefix("torch.")
        self.meter = Meter()

    @property
    def dimensions(self) -> int:
        """D, the length of a vector."""
        if hasattr(self.encoder, "get_embedding_dimension"):
            return int(self.encoder.get_embedding_dimension())
        return int(self.encoder.model.config.hidden_size)

    def document_prompts(self) -> dict[str, str]:
        """What stands beside pictures and videos that come without a text, as in `llave index`."""
        from llave_hf.encoding.prompts import default_prompts

        prompts = default_prompts(self.encoder)
        return {kind: prompts[kind] for kind in ("image", "video")}

    def vectors(self, inputs: Sequence[Any]) -> tuple[list[np.ndarray | None], dict[int, str]]:
        """A float32 vector `(D,)` or None of each input, and by place why there is none."""
        reasons: dict[int, str] = {}
        if not inputs:
            return [], reasons
        made = self.encoder.encode(list(inputs), on_error="none", reasons=reasons, meter=self.meter, **self._options)
        told = {place: reason.removeprefix(f"input {place}: ") for place, reason in reasons.items()}
        return [None if one is None else np.asarray(one, dtype=np.float32) for one in made], told

    def vectors_at(self, entries: Mapping[int, Any], rows: int) -> tuple[list[np.ndarray | None], dict[int, str]]:
        """The same for some of many rows: one vector or None a row, and by row why an entry has none."""
        made, reasons = self.vectors(list(entries.values()))
        found: list[np.ndarray | None] = [None] * rows
        for place, vector in zip(entries, made, strict=True):
            found[place] = vector
        places = list(entries)
        return found, {places[number]: reason for number, reason in reasons.items()}


def prompt_text(model: str | os.PathLike[str], prompt: str | None, name: str | None) -> str | None:
    """What stands before every text; None: nothing is asked for, and the model's own default holds.

    Raises:
        UserError: Both are given, or the model has no prompt of that name.
    """
    if prompt is not None and name is not None:
        raise UserError("give --prompt or --prompt_name, not both.")
    if name is None:
        return prompt
    found = find_file(model, "config_sentence_transformers.json")
    prompts = {} if found is None else json.loads(found.read_text(encoding="utf-8")).get("prompts") or {}
    if name not in prompts:
        raise UserError(f"{model} has no prompt {name!r}; it has {', '.join(prompts) or 'none'}.")
    return str(prompts[name])
