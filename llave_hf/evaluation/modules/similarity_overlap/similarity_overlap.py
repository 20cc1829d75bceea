"""How far similarities of right candidates and hardest wrong ones overlap, as an `evaluate` module.

    module = evaluate.load(llave_hf.evaluation.module_path("similarity_overlap"))
    module.compute(predictions=[[0.9, 0.1, 0.9]], references=[0])   # {"similarity_overlap": …, …}

`predictions`: a list of scores a query, larger is better; `references`: the number of the right one in it.
"""

import datasets
import evaluate

from llave_hf.evaluation.modules.scores import FEATURES, similarity_overlap

_DESCRIPTION = "Overlap of the cosines of right candidates and hardest wrong ones: 0 apart, 1 alike."
_INPUTS = "predictions: a list of scores a query; references: the number of the right candidate. Scores: cosines."


class SimilarityOverlap(evaluate.Metric):
    """Overlap coefficient, and the mean cosines of the two groups."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation="",
            inputs_description=_INPUTS,
            features=datasets.Features(FEATURES),
        )

    def _compute(self, predictions: list[list[float]], references: list[int]) -> dict[str, float]:
        return similarity_overlap(predictions, references)
