"""The model in memory: the vectors that a server should give, and the hidden states that faults are read from."""

from __future__ import annotations

import contextlib
import json
import logging
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from llave_hf.errors import UserError
from llave_hf.hub.fingerprint.stages import full_precision, visual_module
from llave_hf.model.backbone_llave import text_positions
from llave_hf.model.backbones_llave import backbone_of
from llave_hf.model.modeling_llave import LlaveModel
from llave_hf.model.processing_llave import LlaveProcessor
from llave_hf.model.prompt_llave import PromptBuilder
from llave_hf.runtime.opening import cast
from llave_hf.runtime.places import check_model, find_file

from .probes import Probe

NO_LIMIT = 1 << 40
_SETTINGS = (
    *("backbone", "image_size", "patch_size", "image_grid_pinpoints", "image_tiling", "image_mean", "image_std"),
    *("backend", "resize_order", "image_settings", "video_settings", "video_newline", "unpad_rounding"),
)


@dataclass(frozen=True)
class Row:
    """A sequence as the model takes it.

    Attributes:
        ids: Token ids.
        tensors: Of pictures and clips.
        config: Fields of the model's configuration that are otherwise for this row.
        backbone_config: Likewise, of its backbone's.
    """

    ids: list[int]
    tensors: Mapping[str, Any] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    backbone_config: Mapping[str, Any] = field(default_factory=dict)


class Reference:
    """A model and its processor.

    Args:
        model: In evaluation mode.
        processor: The model's.
        prompts: The folder's, by name.
        name: The folder or Hub id.
    """

    def __init__(self, model: LlaveModel, processor: LlaveProcessor, prompts: Mapping[str, str], name: str) -> None:
        self.model = model
        self.processor = processor
        self.prompts = dict(prompts)
        self.name = name
        self.dtype = str(model.dtype).removeprefix("torch.")
        self.device = model.device.type
        self.tokenizer = processor.tokenizer
        self.builder = PromptBuilder(self.tokenizer, self.visual().style)
        self.size: int = model.config.hidden_size
        self.has_vision = visual_module(model) is not None

    def visual(self, **changes: Any) -> Any:
        """What makes tensors of pictures and clips, with some of the processor's settings changed."""
        settings = {name: getattr(self.processor, name) for name in _SETTINGS}
        return backbone_of(self.processor.backbone).visual_inputs(
            self.tokenizer, SimpleNamespace(**{**settings, **changes})
        )

    def count(self, text: str) -> int:
        """Tokens of a text's sequence, prompt included."""
        rows, _ = self.builder.build([text], [[]], NO_LIMIT)
        return len(rows[0])

    def row(self, probe: Probe) -> Row:
        """A probe's sequence as the processor makes it; raises ValueError where it is too long."""
        options: dict[str, Any] = {} if probe.limit is None else {"max_length": probe.limit}
        with _quiet():
            made = self.processor(
                text=[probe.whole_text],
                images=[[one.content for one in probe.pictures]] if probe.pictures else None,
                videos=None if probe.clip is None else [probe.clip.content],
                **options,
            )
        ids = made.pop("input_ids")[0].tolist()
        made.pop("attention_mask")
        return Row(ids, dict(made))

    def vector(self, probe: Probe) -> np.ndarray:
        """What a server should give: `(D,)`, or so many numbers as the probe asks for; float64."""
        row = self.row(probe)
        with torch.inference_mode(), full_precision(self.model.device):
            vector = self.model(**self._inputs(row)).embeddings[0].double().cpu().numpy()
        kept = vector[: probe.dimensions]
        return kept / np.linalg.norm(kept) if self.model.config.normalize else kept

    def hidden(self, row: Row, dtype: torch.dtype | None = None) -> np.ndarray:
        """The language model's last layer for a sequence: `(T, D)` float64.

        Args:
            row: The sequence.
            dtype: What products are rounded to; None for the model's own type.
        """
        device = self.model.device
        with torch.inference_mode(), full_precision(device), _changed(self.model, row):
            if dtype is None:
                states = self._hidden(row)
            else:
                with torch.autocast(device.type, dtype=dtype):
                    states = self._hidden(row)
        return states[0].double().cpu().numpy()

    def _hidden(self, row: Row) -> torch.Tensor:
        inputs = self._inputs(row)
        visual = {self.processor.image_token_id, self.processor.video_token_id}
        if row.tensors or not visual & set(row.ids):
            return self.model(**inputs).last_hidden_state
        # The model refuses a visual token without its picture; what the token's own embedding gives is asked for here.
        backbone, mask = self.model.backbone, inputs["attention_mask"]
        return backbone.language_model(
            inputs_embeds=backbone.get_input_embeddings()(inputs["input_ids"]),
            attention_mask=mask,
            position_ids=text_positions(mask),
            use_cache=False,
        ).last_hidden_state

    def _inputs(self, row: Row) -> dict[str, Any]:
        ids = torch.tensor([row.ids], device=self.model.device)
        tensors = {name: value.to(self.model.device) for name, value in row.tensors.items()}
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids), **tensors}


def open_reference(model: str | os.PathLike[str], dtype: str, device: str) -> Reference:
    """Opens a folder or Hub id to compute in `dtype` on `device`.

    Raises:
        UserError: It is not there, or no LLaVE model.
        ValueError, OSError: It cannot be opened.
    """
    check_model(model)
    try:  # an exported folder holds the backbone's own classes, which these open as a LLaVE model
        network, processor = LlaveModel.from_pretrained(model).eval(), LlaveProcessor.from_pretrained(model)
    except ValueError as error:
        raise UserError(
            f"{model} is no LLaVE model, nor the export of one ({error}); give the folder that is served, or the one "
            "that it was made of."
        ) from error
    cast(network, getattr(torch, dtype))
    return Reference(network.to(device), processor, _prompts(model), os.fspath(model))


def _prompts(model: str | os.PathLike[str]) -> dict[str, str]:
    path = find_file(model, "config_sentence_transformers.json")
    found = {} if path is None else json.loads(path.read_text(encoding="utf-8")).get("prompts") or {}
    return {name: prompt for name, prompt in found.items() if isinstance(prompt, str)}


@contextlib.contextmanager
def _changed(model: LlaveModel, row: Row) -> Iterator[None]:
    """The model's configuration as a row wants it."""
    changes = ((model.config, row.config), (model.backbone.config, row.backbone_config))
    before = [{name: getattr(config, name) for name in fields} for config, fields in changes]
    try:
        for config, fields in changes:
            for name, value in fields.items():
                setattr(config, name, value)
        yield
    finally:
        for (config, _), fields in zip(changes, before, strict=True):
            for name, value in fields.items():
                setattr(config, name, value)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the processor's warning of a text that is too long: it is meant to be."""
    logger = logging.getLogger("llave_hf.model.processing_llave")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)
