"""What a negative would have weighed in training, by its cosine: e^(αs) in LLaVE's loss (Eq. 5 to 7)."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llave_hf.runtime.places import find_file

PAPER_STRENGTH = 9.0
PAPER_TEMPERATURE = 0.02
RECORD = "training_args.json"


@dataclass(frozen=True)
class TrainingWeights:
    """The loss's settings.

    Attributes:
        strength: α; 0: all negatives weigh the same.
        temperature: τ.
        max_weight: cap of e^(αs), or None.
        origin: where the settings are from, and what of the training they leave out; sentences.
    """

    strength: float = PAPER_STRENGTH
    temperature: float = PAPER_TEMPERATURE
    max_weight: float | None = None
    origin: str = "The model's folder says nothing of its training; the paper's settings are taken."

    def log_weight(self, cosine: float) -> float:
        """Logarithm of the weight, min(αs, log cap)."""
        cap = math.inf if self.max_weight is None else math.log(self.max_weight)
        return min(self.strength * cosine, cap)

    def weight(self, cosine: float) -> float:
        """e^(αs), capped: how much more a negative of this cosine weighs than one of cosine 0."""
        return math.exp(self.log_weight(cosine))

    def pull(self, cosine: float, hardest: float) -> float:
        """The loss's gradient at a negative, as a share of that at the query's hardest one (Eq. 6)."""
        exponent = (cosine - hardest) / self.temperature
        return math.exp(exponent + self.log_weight(cosine) - self.log_weight(hardest))


def training_weights(model: Any) -> TrainingWeights:
    """The settings of the training that left this model folder; the paper's where none is recorded.

    Args:
        model: what was evaluated; only a folder or a Hub id can hold a record.
    """
    path = find_file(model, RECORD) if isinstance(model, (str, os.PathLike)) else None
    if path is None:
        return TrainingWeights()
    record = json.loads(path.read_text(encoding="utf-8"))
    if "hardness_strength" not in record or "temperature" not in record:
        return TrainingWeights()
    return recorded_weights(record, f"From {RECORD} in the model's folder.")


def recorded_weights(record: Mapping[str, Any], origin: str) -> TrainingWeights:
    """The settings that a run's arguments have; `origin` is a sentence."""
    return TrainingWeights(
        strength=record["hardness_strength"],
        temperature=record["temperature"],
        max_weight=record.get("max_hardness_weight"),
        origin=" ".join([origin, *_left_out(record)]),
    )


def _left_out(record: Mapping[str, Any]) -> list[str]:
    """What made weights in training differ from e^(αs) of the model's own cosine."""
    source = record.get("hardness_source", "self")
    said = {
        f"In training the hardness came from {source!r}, here it is the model's own cosine.": source != "self",
        "Training had other values for some tasks.": record.get("hardness_strength_by_task")
        or record.get("temperature_by_task"),
        "The strength was steered in training; this is its first value.": record.get("effective_negatives"),
        "The temperature was learned; this is its first value.": record.get("learn_temperature"),
        "In training weights were relative to the positive's; here they are not.": record.get("hardness_reference")
        == "positive",
        "Training took Focal-InfoNCE, which has no weights.": record.get("focal_margin") is not None,
        "Training had graded labels too, which are left out here.": record.get("distill_weight"),
        "Only a row's own hard negatives were weighted.": record.get("hardness_mode") == "hard_negatives",
    }
    return [sentence for sentence, true in said.items() if true]
