"""Misses as the page shows them: texts, pictures, cosines, ranks, and each negative's weight in training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llave_hf.data.thumbnails import PICTURES_AN_INPUT, Thumbnails
from llave_hf.evaluation.benchmark.inputs import DistinctInputs
from llave_hf.evaluation.results import TaskResult

from .misses import Listed, Miss, find_misses, missed_queries
from .training_weights import TrainingWeights

TEXT_SHOWN = 600  # characters of an input
ANSWERS_SHOWN = 5


def subset_misses(
    results: Sequence[TaskResult],
    inputs: DistinctInputs,
    most: int,
    thumbnails: Thumbnails,
    weights: TrainingWeights,
) -> list[dict[str, Any]]:
    """For each subset its number of misses and those with the largest gaps."""
    shown = []
    for number, result in enumerate(results, start=1):
        thumbnails.allow(number / len(results))
        found = [_shown_miss(miss, inputs, thumbnails, weights) for miss in find_misses(result, most)]
        total = len(missed_queries(result.ranks))
        shown.append(
            {"name": result.task.name, "total": total, "queries": len(result.inputs.queries), "misses": found}
        )
    return shown


def _shown_miss(
    miss: Miss, inputs: DistinctInputs, thumbnails: Thumbnails, weights: TrainingWeights
) -> dict[str, Any]:
    wrong = [entry.cosine for entry in miss.top if not entry.answer]
    hardest = max(wrong)

    def candidate(entry: Listed) -> dict[str, Any]:
        return {
            **_shown_input(entry.number, inputs, thumbnails),
            "cosine": entry.cosine,
            "rank": f"{entry.first:,}" if not entry.tied else f"{entry.first:,} to {entry.last:,}",
            "tied": entry.tied,
            "answer": entry.answer,
            "weight": None if entry.answer else weights.weight(entry.cosine),
            "pull": None if entry.answer else weights.pull(entry.cosine, hardest),
        }

    return {
        "row": miss.row,
        "gap": miss.gap,
        "query": _shown_input(miss.query, inputs, thumbnails),
        "answers": [candidate(entry) for entry in miss.answers[:ANSWERS_SHOWN]],
        "more_answers": max(0, len(miss.answers) - ANSWERS_SHOWN),
        "top": [candidate(entry) for entry in miss.top],
        "tied": any(entry.tied for entry in miss.top),
    }


def _shown_input(number: int, inputs: DistinctInputs, thumbnails: Thumbnails) -> dict[str, Any]:
    sample = inputs.samples[number]
    text = sample.text.strip()
    return {
        "text": text[:TEXT_SHOWN],
        "more_text": max(0, len(text) - TEXT_SHOWN),
        "pictures": thumbnails.of(sample),
        "more_pictures": max(0, len(sample.images) - PICTURES_AN_INPUT),
    }
