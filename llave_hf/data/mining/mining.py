"""Mines hard negatives: for each query the documents that a model takes for answers and that are none.

For each task: encode each distinct query and document once, rank the documents, and of the nearest take those that
pass the filters. A document that is a query's positive in any row is never its negative, nor is one of a row with the
same label. A negative that a row brings for the query is not found again. A document that scores nearly as high as the
positive is likely an answer that nobody marked, and is left out (the margin relative to the positive's score is that
of NV-Retriever, arXiv 2407.15831).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from llave_hf.data.batches.collator import one_sample_a_content
from llave_hf.data.pairs import TaskRows
from llave_hf.data.samples import Pair, Sample
from llave_hf.data.vectors.embedding_cache import EmbeddingCache

from .candidates import find_candidates
from .distinct import Distinct, distinct
from .grouping import GROUP_BY, Grouping, group_rows
from .judging import Judge, Judged, judge_rows
from .nearest import nearest

REASONS = {
    "positive": "is a positive of the query",
    "itself": "is the query itself",
    "label": "has the label of the query",
    "own": "is a negative that the query has",
    "margin": "scores too near the positive",
    "max_score": "scores above max_score",
    "min_score": "scores below min_score",
    "rank": "ranks before rank_min",
    "judge": "is right, says the judge",
}


@dataclass(frozen=True)
class MiningOptions:
    """What counts as a hard negative.

    Args:
        num_negatives: At most so many a query, the hardest first; 0 with `group_size` only.
        rank_min: Leave out so many of the nearest that are left after positives.
        rank_max: Look at so many of the nearest.
        relative_margin: Leave out what scores above (1 - margin) x the positive's score; None: no such margin.
        absolute_margin: Leave out what scores above the positive's score - margin.
        max_score, min_score: Bounds of the cosine itself.
        index: See [`nearest`].
        group_size: G, rows of a group that belongs into a batch together; 0: rows are not grouped.
        group_by: See [`group_rows`]. What the filters leave out as too near does not meet in a group.
        judge_margin: With a judge: leave out what it scores above the positive's score - margin.
        judge_threshold: With a judge: leave out what it scores above; None: no such bound.
        judge_candidates: How many a query the judge is asked about, the hardest first; None: twice `num_negatives`.

    Raises:
        ValueError: A number is out of its range.
    """

    num_negatives: int = 5
    rank_min: int = 0
    rank_max: int = 100
    relative_margin: float | None = 0.05
    absolute_margin: float | None = None
    max_score: float | None = None
    min_score: float | None = None
    index: str = "exact"
    group_size: int = 0
    group_by: str = "mutual_ranks"
    judge_margin: float = 0.0
    judge_threshold: float | None = None
    judge_candidates: int | None = None

    def __post_init__(self) -> None:
        if self.num_negatives < (0 if self.group_size else 1):
            raise ValueError(f"num_negatives is {self.num_negatives}; it must be at least 1, or 0 with group_size.")
        if self.judge_threshold is not None and not 0 < self.judge_threshold < 1:
            raise ValueError(f"judge_threshold is {self.judge_threshold}; it must lie between 0 and 1.")
        if self.judge_candidates is not None and self.judge_candidates < self.num_negatives:
            raise ValueError(
                f"judge_candidates is {self.judge_candidates} and num_negatives {self.num_negatives}; give as many or "
                "more."
            )
        if self.group_size < 0 or self.group_size == 1:
            raise ValueError(f"group_size is {self.group_size}; it must be at least 2, or 0 for no groups.")
        if self.group_by not in GROUP_BY:
            raise ValueError(f"group_by is {self.group_by!r}; choose one of {', '.join(map(repr, GROUP_BY))}.")
        if not 0 <= self.rank_min < self.rank_max:
            raise ValueError(f"rank_min is {self.rank_min} and rank_max {self.rank_max}; 0 <= rank_min < rank_max.")
        if self.relative_margin is not None and not 0 <= self.relative_margin <= 1:
            raise ValueError(f"relative_margin is {self.relative_margin}; it must lie between 0 and 1.")
        if self.absolute_margin is not None and not self.absolute_margin >= 0:
            raise ValueError(f"absolute_margin is {self.absolute_margin}; it must not be negative.")

    def judge_bounds(self) -> tuple[float, float]:
        """`judge_margin` and `judge_threshold`, 1 where there is none."""
        return self.judge_margin, 1.0 if self.judge_threshold is None else self.judge_threshold


@dataclass
class MinedTask:
    """The negatives of one task.

    Attributes:
        negatives: For each row, numbers of rows whose positive is a negative of it, the hardest first.
        scores: For each row, the cosines of its query with all its negatives, those that it came with first.
        dropped: How many candidates among the `rank_max` nearest were left out, by reason.
        grouping: Of the rows, where groups are asked for.
        judged: What a judge says of the rows, where there is one.
    """

    name: str
    negatives: list[list[int]]
    queries: int
    documents: int
    scores: list[list[float]] = field(default_factory=list)
    dropped: Counter[str] = field(default_factory=Counter)
    grouping: Grouping | None = None
    judged: Judged | None = None

    def report(self, wanted: int) -> str:
        """Lines for the screen."""
        found = np.array([len(row) for row in self.negatives])
        lines = [
            f"{self.name}: {len(found)} rows, {self.queries} distinct queries, {self.documents} distinct documents"
        ]
        if wanted:
            lines[0] += (
                f"; {found.mean():.2f} negatives a row, {int((found < wanted).sum())} rows with fewer than {wanted}, "
                f"{int((found == 0).sum())} with none"
            )
        lines += [
            f"  left out {count:>9,} candidates: {REASONS[reason]}" for reason, count in self.dropped.items() if count
        ]
        if self.judged is not None:
            lines.append(f"  {self.judged.report()}")
        if self.grouping is not None:
            lines.append(f"  {self.grouping.report()}")
        return "\n".join(lines)


def mine_task(
    task: TaskRows,
    cache: EmbeddingCache,
    options: MiningOptions,
    judge: Judge | None = None,
    groups_needed: int = 0,
) -> MinedTask:
    """Finds the negatives of one task's rows among the task's own documents.

    Args:
        task: The rows.
        cache: Encodes them.
        options: What counts as a hard negative, and whether rows are grouped.
        judge: Scores what is found.
        groups_needed: See [`group_rows`].
    """
    pairs = one_sample_a_content([task.pair(index) for index in range(len(task))])
    queries = distinct([pair.query for pair in pairs])
    documents = distinct([pair.positive for pair in pairs])
    positives: list[set[int]] = [set() for _ in queries.samples]
    for query, document in zip(queries.number, documents.number, strict=True):
        positives[query].add(int(document))
    query_vectors = cache.encode(queries.samples, f"{task.name}: queries")
    document_vectors = cache.encode(documents.samples, f"{task.name}: documents")
    count = options.rank_max + max(map(len, positives)) + 1  # positives and the query itself take places
    scores, numbers = nearest(query_vectors, document_vectors, count, options.index)
    mined = MinedTask(task.name, [], len(queries.samples), len(documents.samples))
    same = {sample: number for number, sample in enumerate(documents.samples)}
    itself = [same.get(sample, -1) for sample in queries.samples]
    unfit = _Unfit(pairs, queries, documents, same)
    own = _own_scores(task, pairs, queries.number, query_vectors, cache)
    wanted = options.num_negatives
    if judge is not None:
        wanted = 2 * wanted if options.judge_candidates is None else options.judge_candidates
    chosen: dict[tuple[int, int], list[int]] = {}
    for query, document in zip(queries.number.tolist(), documents.number.tolist(), strict=True):
        if (query, document) not in chosen:
            positive_score = float(query_vectors[query] @ document_vectors[document])
            candidates = list(zip(scores[query].tolist(), numbers[query].tolist(), strict=True))
            chosen[query, document] = _select(
                candidates,
                positives[query],
                itself[query],
                partial(unfit.why, query),
                positive_score,
                options,
                mined.dropped,
                wanted,
            )
    right: list[tuple[int, int]] = []
    if judge is not None:
        chosen, mined.judged, right = judge_rows(
            judge, pairs, chosen, queries, documents, most=options.num_negatives, bounds=options.judge_bounds()
        )
        mined.dropped["judge"] += len(right)
    for query, document, own_scores in zip(queries.number.tolist(), documents.number.tolist(), own, strict=True):
        taken = chosen[query, document]
        mined.negatives.append([documents.row[number] for number in taken])
        mined.scores.append([*own_scores, *(document_vectors[taken] @ query_vectors[query]).tolist()])
    if options.group_size:
        positive_scores = (query_vectors[queries.number] * document_vectors[documents.number]).sum(1)
        lowest = np.full(len(queries.samples), np.inf)
        np.minimum.at(lowest, queries.number, positive_scores)
        found = find_candidates(
            scores,
            numbers,
            queries.number,
            documents.number,
            num_documents=len(documents.samples),
            itself=np.array(itself),
            ceilings=np.minimum(
                [_ceiling(float(score), options) for score in lowest],
                np.inf if options.max_score is None else options.max_score,
            ),
            floor=-np.inf if options.min_score is None else options.min_score,
            ranks=(options.rank_min, options.rank_max),
            labels=task.judgements.labels,
            right=np.array([query * len(documents.samples) + document for query, document in right], dtype=np.int64),
        )
        mined.grouping = group_rows(found, options.group_size, options.group_by, query_vectors, groups_needed)
    return mined


def _own_scores(
    task: TaskRows,
    pairs: Sequence[Pair],
    query_number: np.ndarray,
    query_vectors: np.ndarray,
    cache: EmbeddingCache,
) -> list[list[float]]:
    """Cosines of each row's query with the negatives that the row came with."""
    own = distinct([negative for pair in pairs for negative in pair.negatives])
    if not own.samples:
        return [[] for _ in pairs]
    vectors = cache.encode(own.samples, f"{task.name}: the rows' own negatives")[own.number]
    counts = np.array([len(pair.negatives) for pair in pairs])
    scores = (vectors * query_vectors[np.repeat(query_number, counts)]).sum(1)
    return [part.tolist() for part in np.split(scores, np.cumsum(counts)[:-1])]


class _Unfit:
    """Documents that are no negatives of a query, or not once more: they have its label, or its rows bring them."""

    def __init__(
        self, pairs: Sequence[Pair], queries: Distinct, documents: Distinct, same: Mapping[Sample, int]
    ) -> None:
        """`same` has the number of each document."""
        self._of_query: list[set[int]] = [set() for _ in queries.samples]
        self._of_document: list[set[int]] = [set() for _ in documents.samples]
        self._brought: list[set[int]] = [set() for _ in queries.samples]
        for pair, query, document in zip(pairs, queries.number.tolist(), documents.number.tolist(), strict=True):
            if pair.label >= 0:
                self._of_query[query].add(pair.label)
                self._of_document[document].add(pair.label)
            self._brought[query].update(same.get(negative, -1) for negative in pair.negatives)

    def why(self, query: int, document: int) -> str | None:
        """The reason; None where it may be one."""
        if not self._of_query[query].isdisjoint(self._of_document[document]):
            return "label"
        return "own" if document in self._brought[query] else None


def _select(
    candidates: Sequence[tuple[float, int]],
    positives: set[int],
    itself: int,
    why_unfit: Callable[[int], str | None],
    positive_score: float,
    options: MiningOptions,
    dropped: Counter[str],
    wanted: int,
) -> list[int]:
    ceiling = _ceiling(positive_score, options)
    taken: list[int] = []
    rank = 0
    for score, number in candidates:
        if number < 0 or rank >= options.rank_max or len(taken) == wanted:
            break
        if number in positives or number == itself:
            dropped["positive" if number in positives else "itself"] += 1
            continue
        rank += 1
        reason = why_unfit(number) or _reason(score, rank, ceiling, options)
        if reason is None:
            taken.append(number)
        else:
            dropped[reason] += 1
    return taken


def _ceiling(positive_score: float, options: MiningOptions) -> float:
    bounds = [np.inf]
    if options.relative_margin is not None:
        bounds.append(positive_score - abs(positive_score) * options.relative_margin)
    if options.absolute_margin is not None:
        bounds.append(positive_score - options.absolute_margin)
    return float(min(bounds))


def _reason(score: float, rank: int, ceiling: float, options: MiningOptions) -> str | None:
    if score > ceiling:
        return "margin"
    if options.max_score is not None and score > options.max_score:
        return "max_score"
    if options.min_score is not None and score < options.min_score:
        return "min_score"
    return "rank" if rank <= options.rank_min else None
