"""Precision@1 with ties by expectation, as an `evaluate` module.

    module = evaluate.load(llave_hf.evaluation.module_path("precision_at_1"))
    module.compute(predictions=[[0.9, 0.1, 0.9]], references=[0])   # {"precision_at_1": 0.5, …}

`predictions`: a list of scores a query, larger is better; `references`: the number of the right one in it.
"""

import datasets
import evaluate

from llave_hf.evaluation.modules.scores import FEATURES, answer_ranks
from llave_hf.evaluation.scoring.metrics import precision_at_1, precision_at_1_bounds

_DESCRIPTION = "Probability that the right candidate comes first, ties broken at random."
_INPUTS = "predictions: a list of scores a query; references: the number of the right candidate."


class PrecisionAt1(evaluate.Metric):
    """Precision@1, and what it would be if all ties were lost or won."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation="",
            inputs_description=_INPUTS,
            features=datasets.Features(FEATURES),
        )

    def _compute(self, predictions: list[list[float]], references: list[int]) -> dict[str, float]:
        ranks = answer_ranks(predictions, references)
        pessimistic, optimistic = precision_at_1_bounds(ranks)
        return {
            "precision_at_1": float(precision_at_1(ranks).mean()),
            "precision_at_1_pessimistic": float(pessimistic.mean()),
            "precision_at_1_optimistic": float(optimistic.mean()),
        }
