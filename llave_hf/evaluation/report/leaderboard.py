"""Results in the form that MMEB-V2's leaderboard takes: by modality, with its names of metrics.

Only metrics whose expectation over ties is known are written: hit@1; precision, recall and linear nDCG at 1, 5 and 10.
What a benchmark cannot know of a model (its release date, its address) is null: fill it in before handing the file in.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any

import numpy as np
import torch

from llave_hf.evaluation.results import BenchmarkResults
from llave_hf.evaluation.scoring.metrics import AnswerRanks, ndcg_at_k, precision_at_1, recall_at_k

LEADERBOARD_FILE = "leaderboard.json"
CUTOFFS = (1, 5, 10)
NO_MODALITY = "image"  # MMEB's first version had pictures only


def leaderboard(results: BenchmarkResults, encoder: Any, dimensions: int) -> dict[str, Any]:
    """`{"metadata": …, "metrics": {modality: {subset: {metric: value}}}}`, 0 to 1; missing subsets are left out.

    Args:
        encoder: what made the vectors; a torch module, or an owner of a `model`, tells its size and backbone.
        dimensions: of the vectors.
    """
    metrics: dict[str, dict[str, Mapping[str, float]]] = {}
    for result in results.tasks:
        metrics.setdefault(result.task.modality or NO_MODALITY, {})[result.task.name] = _scores(result.ranks)
    return {"metadata": _metadata(results.model, encoder, dimensions), "metrics": metrics}


def _scores(ranks: AnswerRanks) -> dict[str, float]:
    answers = ranks.total(np.ones(len(ranks.above)))
    per_query = {"hit@1": precision_at_1(ranks)}
    for k in CUTOFFS:
        recall = recall_at_k(ranks, k)
        per_query |= {f"ndcg_linear@{k}": ndcg_at_k(ranks, k), f"precision@{k}": recall * answers / k}
        per_query[f"recall@{k}"] = recall
    means = {name: float(values.mean()) for name, values in per_query.items()}
    return means | {"num_pred": len(ranks.candidates), "num_data": len(ranks.candidates)}


def _metadata(name: str, encoder: Any, dimensions: int) -> dict[str, Any]:
    module = encoder if isinstance(encoder, torch.nn.Module) else getattr(encoder, "model", None)
    size = backbone = None
    if isinstance(module, torch.nn.Module):
        size = round(sum(parameter.numel() for parameter in module.parameters()) / 1e9, 4)
        config = next((part.config for part in module.modules() if hasattr(part, "config")), None)
        backbone = getattr(config, "backbone_config", config)
    return {
        "model_name": name,
        "model_backbone": getattr(backbone, "model_type", None),
        "model_size": size,
        "embedding_dimension": dimensions,
        "max_length_tokens": getattr(encoder, "max_seq_length", None),
        "model_release_date": None,
        "data_source": "Self-Reported",
        "url": None,
        "report_generated_date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }
