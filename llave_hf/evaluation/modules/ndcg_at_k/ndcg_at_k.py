"""nDCG@k with ties by expectation, as an `evaluate` module.

    module = evaluate.load(llave_hf.evaluation.module_path("ndcg_at_k"))
    module.compute(predictions=[[0.9, 0.1, 0.9]], references=[0])   # {"ndcg_at_10": …}; k=10 unless given

`predictions`: a list of scores a query, larger is better; `references`: the number of the right one in it.
"""

import datasets
import evaluate

from llave_hf.evaluation.modules.scores import FEATURES, answer_ranks
from llave_hf.evaluation.scoring.metrics import ndcg_at_k

_DESCRIPTION = "Expected nDCG@k of one right candidate, ties broken at random."
_INPUTS = "predictions: a list of scores a query; references: the number of the right candidate. k: the cut-off."


class NdcgAtK(evaluate.Metric):
    """nDCG@k for one right candidate a query."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation="",
            inputs_description=_INPUTS,
            features=datasets.Features(FEATURES),
        )

    def _compute(self, predictions: list[list[float]], references: list[int], k: int = 10) -> dict[str, float]:
        return {f"ndcg_at_{k}": float(ndcg_at_k(answer_ranks(predictions, references), k).mean())}
