"""What the `evaluate` modules share: their columns, and lists of scores as ranks of answers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from datasets import Sequence as ListOf
from datasets import Value

from llave_hf.evaluation.scoring.histograms import bin_numbers, overlap
from llave_hf.evaluation.scoring.metrics import AnswerRanks, FloatArray, rank_answers

FEATURES = {"predictions": ListOf(Value("float64")), "references": Value("int64")}


def answer_ranks(predictions: Sequence[Sequence[float]], references: Sequence[int]) -> AnswerRanks:
    """Ranks of the right candidates; lists may differ in length.

    Raises:
        ValueError: A reference is no place in its list, or a score is not a number.
    """
    scores, present = _padded(predictions)
    return rank_answers(scores, np.asarray(references), present)


def similarity_overlap(predictions: Sequence[Sequence[float]], references: Sequence[int]) -> dict[str, float]:
    """Of the right candidates' cosines and each query's highest other one.

    Raises:
        ValueError: As [`answer_ranks`]; or a list has no wrong candidate, or scores are not cosines.
    """
    answer_ranks(predictions, references)  # checks
    scores, present = _padded(predictions)
    if (np.abs(scores[present]) > 1 + 1e-6).any():
        raise ValueError("similarity_overlap needs cosines, from -1 to 1: normalise the embeddings.")
    rows = np.arange(len(scores))
    right = scores[rows, references]
    others = present.copy()
    others[rows, references] = False
    if not others.any(axis=1).all():
        raise ValueError(f"Query {int(others.any(axis=1).argmin())} has no wrong candidate; leave it out.")
    hardest = np.where(others, scores, -np.inf).max(axis=1)
    one, other = (torch.bincount(bin_numbers(torch.from_numpy(part)), minlength=1000) for part in (right, hardest))
    return {
        "similarity_overlap": overlap(one, other) or 0.0,
        "similarity_right": float(right.mean()),
        "similarity_hardest_wrong": float(hardest.mean()),
    }


def _padded(predictions: Sequence[Sequence[float]]) -> tuple[FloatArray, np.ndarray]:
    """(Q, longest list) scores, and where there are some."""
    lengths = np.array([len(scores) for scores in predictions])
    present = np.arange(lengths.max(initial=0)) < lengths[:, None]
    scores = np.zeros(present.shape)
    scores[present] = np.concatenate([np.asarray(row, dtype=np.float64) for row in predictions])
    return scores, present
