"""A saved tiny model, opened beside a server of it that faults are planted in."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from helpers import tiny_model
from planted_server import Embed, Planted, embedding, serving

from llave_hf import LlaveModel, LlaveProcessor
from llave_hf.model.sentence_transformer_layout_llave import PROMPTS
from llave_hf.serving_check.check import check_server
from llave_hf.serving_check.client import Client
from llave_hf.serving_check.offers import discover
from llave_hf.serving_check.probes import KINDS
from llave_hf.serving_check.reference import Reference, open_reference
from llave_hf.serving_check.table import Report

MAX_LENGTH = 720


@dataclass
class Local:
    """A saved model, and a server of it to plant faults in."""

    folder: Path
    model: LlaveModel
    processor: LlaveProcessor
    reference: Reference

    @property
    def right(self) -> Embed:
        return embedding(self.model, self.processor)

    def planted(self, embed: Embed | None = None, **changes: Any) -> Planted:
        return Planted(embed or self.right, **{"prompts": PROMPTS, **changes})

    def check(
        self, planted: Planted, kinds: Collection[str] = KINDS, forms: Sequence[str] = ("messages",), **options: Any
    ) -> Report:
        """What the command finds of a server, asked for some kinds of inputs only."""
        skip = [kind for kind in KINDS if kind not in kinds]
        with serving(planted) as url:
            client = Client(url, **{name: options.pop(name) for name in ("key", "timeout") if name in options})
            offers = discover(client, options.pop("served", None))
            return check_server(self.reference, client, offers, forms=forms, skip=skip, **options)


def saved(folder: Path, *, normalize: bool = True, **processor: Any) -> Local:
    model, made = tiny_model(seed=5, processor={"max_length": MAX_LENGTH, **processor})
    model.config.normalize = normalize
    for part in (model, made):
        part.save_pretrained(folder)
    return Local(folder, model, made, open_reference(folder, "float32", "cpu"))
