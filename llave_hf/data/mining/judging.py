"""A judge of mined candidates: how probable it is that a document answers a query, 0 to 1."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from tqdm.auto import tqdm

from llave_hf.data.media import load_sample
from llave_hf.data.samples import Pair, Sample
from llave_hf.data.vectors.embedding_cache import EmbeddingCache, as_input
from llave_hf.encoding.failures import TRY_FLOAT32
from llave_hf.errors import UserError
from llave_hf.runtime.places import check_model, find_file

from .distinct import Distinct, distinct

_CLASSIFIER = "ForSequenceClassification"
_PAIRS_AT_ONCE = 256  # whose pictures are in memory together


class Judge(Protocol):
    """Says how well documents answer queries."""

    def scores(self, queries: Sequence[Sample], documents: Sequence[Sample], what: str) -> np.ndarray:
        """`(n,)` float64, 0 to 1, of each query with the document beside it; `what` names the progress bar."""


@dataclass(frozen=True)
class EmbeddingJudge:
    """A model that embeds: (1 + cosine) / 2. It grows with the cosine, and is no calibrated probability.

    Args:
        cache: Encodes with the model.
    """

    cache: EmbeddingCache

    def scores(self, queries: Sequence[Sample], documents: Sequence[Sample], what: str) -> np.ndarray:
        both = distinct([*queries, *documents])
        vectors = self.cache.encode(both.samples, what)
        left, right = (vectors[side] for side in np.split(both.number, [len(queries)]))
        return np.clip((1 + (left.astype(np.float64) * right).sum(1)) / 2, 0, 1)


@dataclass(frozen=True)
class CrossEncoderJudge:
    """A `CrossEncoder` of sentence-transformers, which reads query and document together, pictures too where it can.

    One logit becomes its sigmoid: of a reranker made of a language model, e^yes / (e^yes + e^no). Of two, the second's
    share of their softmax is taken.

    Args:
        model: The model.
        batch_size: Pairs a forward pass; None leaves it to the model.
    """

    model: Any
    batch_size: int | None = None

    def scores(self, queries: Sequence[Sample], documents: Sequence[Sample], what: str) -> np.ndarray:
        import torch

        options = {} if self.batch_size is None else {"batch_size": self.batch_size}
        told: list[torch.Tensor] = []
        asked = list(zip(queries, documents, strict=True))
        for start in tqdm(range(0, len(queries), _PAIRS_AT_ONCE), desc=what, unit="piece"):
            piece = asked[start : start + _PAIRS_AT_ONCE]
            pairs = [[_opened(one), _opened(other)] for one, other in piece]
            try:
                logits = self.model.predict(
                    pairs,
                    activation_fn=torch.nn.Identity(),
                    convert_to_tensor=True,
                    show_progress_bar=False,
                    **options,
                )
            except (TypeError, ValueError) as error:  # what sentence-transformers says of a kind of input
                one, other = next((pair for pair in piece if _has_media(*pair)), piece[0])
                reason = str(error).partition("\n")[0]
                raise UserError(
                    f"the judge cannot read {one} beside {other} ({reason}); give one that reads "
                    "such pairs, or --subsets that it can read."
                ) from error
            told.append(logits)
        logits = torch.cat(told).double().cpu()
        unfit = logits.isfinite().logical_not().reshape(len(logits), -1).any(1)
        if unfit.any():
            place = int(unfit.long().argmax())
            raise UserError(
                f"the judge gives {queries[place]} and {documents[place]} a number that is not finite; {TRY_FLOAT32}."
            )
        if logits.ndim == 2 and logits.shape[1] == 2:
            return logits.softmax(dim=1)[:, 1].numpy()
        if logits.ndim != 1:
            raise UserError(
                f"the judge gives {logits.shape[1]} numbers a pair; a judge gives one, or two of which the second is "
                "for a document that answers."
            )
        return logits.sigmoid().numpy()


def _has_media(*samples: Sample) -> bool:
    return any(sample.images or sample.video for sample in samples)


def _opened(sample: Sample) -> str | dict[str, Any]:
    """A sample as `CrossEncoder` takes it, its pictures opened as they are for training."""
    entry = as_input(sample)
    if isinstance(entry, dict) and "image" in entry:
        images = load_sample(replace(sample, video=None))["images"]
        entry["image"] = images[0] if len(images) == 1 else images
    return entry


def load_judge(
    model: str | os.PathLike[str], cache: EmbeddingCache | None = None, batch_size: int | None = None, **opened: Any
) -> Judge:
    """A judge from a folder or a Hub id: a `CrossEncoder`, or whatever embeds.

    Args:
        model: The folder or Hub id.
        cache: Keeps the vectors of a model that embeds, and is given the model.
        batch_size: Inputs, or pairs, a forward pass.
        **opened: `dtype`.
    """
    check_model(model)
    if not is_cross_encoder(model):
        from llave_hf.encoding.sentence_transformer import load_encoder

        cache = cache or EmbeddingCache(None, None, "", batch_size)
        cache.encoder = load_encoder(model, **opened)
        return EmbeddingJudge(cache)
    from sentence_transformers import CrossEncoder

    return CrossEncoderJudge(CrossEncoder(os.fspath(model), model_kwargs=dict(opened)), batch_size)


def is_cross_encoder(model: str | os.PathLike[str]) -> bool:
    """Whether a model reads query and document together."""
    of_transformers = _json(model, "config.json").get("architectures") or [""]
    return _json(model, "config_sentence_transformers.json").get("model_type") == "CrossEncoder" or (
        str(of_transformers[0]).endswith(_CLASSIFIER)
    )


def _json(model: str | os.PathLike[str], name: str) -> dict[str, Any]:
    file = find_file(model, name)
    return {} if file is None else json.loads(file.read_text(encoding="utf-8"))


@dataclass(frozen=True)
class Judged:
    """What a judge says of the rows of a task.

    Attributes:
        positives: `(n,)` of each row's positive.
        negatives: Of each row's negatives, those that it came with first.
        own_right: How many of the negatives that rows came with would have been left out.
    """

    positives: np.ndarray
    negatives: list[list[float]]
    own_right: int

    def report(self) -> str:
        """A line for the screen."""
        line = f"the judge gives positives {self.positives.mean():.3f} on average"
        scores = [score for row in self.negatives for score in row]
        if scores:
            line += f", negatives {np.mean(scores):.3f}"
        if self.own_right:
            line += f"; it calls {self.own_right:,} of the negatives that rows came with right, which stay"
        return line


def judge_rows(
    judge: Judge,
    pairs: Sequence[Pair],
    chosen: Mapping[tuple[int, int], Sequence[int]],
    queries: Distinct,
    documents: Distinct,
    *,
    most: int,
    bounds: tuple[float, float],
) -> tuple[dict[tuple[int, int], list[int]], Judged, list[tuple[int, int]]]:
    """Scores the candidates of each row, and leaves out those that the judge calls right.

    Args:
        judge: Is asked about each distinct pair once.
        pairs: The rows.
        chosen: Of each query and its positive, by their numbers, the candidates, the hardest first.
        queries, documents: The distinct ones.
        most: How many candidates stay, at most.
        bounds: A candidate is right that scores above the positive's score less the first, or above the second.

    Returns:
        `chosen` without them, what the judge says, and which query and document are right.
    """
    asked = list(dict.fromkeys((query, one) for (query, own), taken in chosen.items() for one in (own, *taken)))
    left, right = ([side.samples[pair[end]] for pair in asked] for end, side in ((0, queries), (1, documents)))
    source = pairs[0].source
    said = dict(zip(asked, judge.scores(left, right, f"{source}: judged").tolist(), strict=True))
    margin, threshold = bounds
    ceiling = {(query, own): min(said[query, own] - margin, threshold) for query, own in chosen}
    wrong = {key: [one for one in taken if said[key[0], one] <= ceiling[key]][:most] for key, taken in chosen.items()}
    called_right = [
        (key[0], one) for key, taken in chosen.items() for one in taken if said[key[0], one] > ceiling[key]
    ]

    rows = list(zip(queries.number.tolist(), documents.number.tolist(), strict=True))
    brought = [(pair.query, negative) for pair in pairs for negative in pair.negatives]
    of_brought = dict.fromkeys(brought, 0.0)
    if brought:
        left, right = map(list, zip(*of_brought, strict=True))
        scores = judge.scores(left, right, f"{source}: the rows' own negatives, judged").tolist()
        of_brought = dict(zip(of_brought, scores, strict=True))
    own = [[of_brought[pair.query, negative] for negative in pair.negatives] for pair in pairs]
    judged = Judged(
        np.array([said[key] for key in rows]),
        [[*row, *(said[key[0], one] for one in wrong[key])] for key, row in zip(rows, own, strict=True)],
        sum(score > ceiling[key] for key, row in zip(rows, own, strict=True) for score in row),
    )
    return wrong, judged, called_right
