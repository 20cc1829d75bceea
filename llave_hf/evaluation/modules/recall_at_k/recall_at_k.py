"""Recall@k with ties by expectation, as an `evaluate` module.

    module = evaluate.load(llave_hf.evaluation.module_path("recall_at_k"))
    module.compute(predictions=[[0.9, 0.1, 0.9]], references=[0])   # {"recall_at_10": …}; k=10 unless given

`predictions`: a list of scores a query, larger is better; `references`: the number of the right one in it.
"""

import datasets
import evaluate

from llave_hf.evaluation.modules.scores import FEATURES, answer_ranks
from llave_hf.evaluation.scoring.metrics import recall_at_k

_DESCRIPTION = "Probability that the right candidate is among the first k, ties broken at random."
_INPUTS = "predictions: a list of scores a query; references: the number of the right candidate. k: the cut-off."


class RecallAtK(evaluate.Metric):
    """Recall@k for one right candidate a query."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation="",
            inputs_description=_INPUTS,
            features=datasets.Features(FEATURES),
        )

    def _compute(self, predictions: list[list[float]], references: list[int], k: int = 10) -> dict[str, float]:
        return {f"recall_at_{k}": float(recall_at_k(answer_ranks(predictions, references), k).mean())}
