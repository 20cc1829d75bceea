"""A collator that leaves out pairs whose samples cannot be opened (on_bad_sample: skip), and reports them."""

from __future__ import annotations

import contextlib
import dataclasses
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from llave_hf.data.batches.collator import LlaveCollator, one_sample_a_content, owners_of
from llave_hf.data.samples import Pair, Sample
from llave_hf.data.streaming.tasks import TrainingPairs
from llave_hf.encoding.rows import Row
from llave_hf.model.media_llave import MediaError

TRIES = 100  # rows that are drawn for a batch in which all are bad

_OF_NEGATIVES = ("negatives", "negative_hardness", "negative_scores")  # of a Pair: an entry a negative

Failures = dict[Sample, ValueError | OSError]


class TracedCollator:
    """A [`LlaveCollator`] whose batches say what they were made of, and which may go on where a sample is bad.

    In the place of a pair whose query or positive is bad stands another of the batch once more: ranks keep equal
    batches, and the loss, which counts content once (`count_duplicates_once`), is the loss of the batch without the
    bad pair. Where all pairs of a rank's batch are bad, it is a row of their task, drawn by the first one's name and
    number, so the same in every run. A bad negative is left out of its pair.

    Args:
        collator: Makes the batches.
        dataset: Where other rows are drawn.
        skip: Whether to go on; else the first bad sample is raised.
        unusable: Samples that count as bad whether or not they open, by key, and why; it may grow until batches are
            asked for.
    """

    def __init__(
        self,
        collator: LlaveCollator,
        dataset: TrainingPairs | None,
        *,
        skip: bool,
        unusable: Mapping[int, str] | None = None,
    ) -> None:
        self.collator = collator
        self.dataset = dataset
        self.skip = skip
        self.unusable = {} if unusable is None else unusable

    def __call__(self, pairs: Sequence[Pair]) -> dict[str, Any]:
        """The collator's batch of the mended pairs, with them as `pairs`, and `bad_samples`, see [`report`]."""
        pairs = one_sample_a_content(pairs)
        prepared, failures = self._prepare(pairs)
        reports: list[dict[str, Any]] = []
        if failures:
            pairs = self._mend(pairs, prepared, failures, reports)
        return {**self.collator.join(pairs, prepared), "pairs": list(pairs), "bad_samples": reports}

    def _prepare(self, pairs: Sequence[Pair]) -> tuple[dict[Sample, Row], Failures]:
        failures: Failures = {}
        prepared = self.collator.prepare(pairs, failures if self.skip else None)
        return prepared, failures | failures_among(pairs, self.unusable)

    def _mend(
        self,
        pairs: Sequence[Pair],
        prepared: dict[Sample, Row],
        failures: Failures,
        reports: list[dict[str, Any]],
    ) -> list[Pair]:
        kept = [without_bad(pair, failures, reports) for pair in pairs]
        good = next((pair for pair in kept if pair is not None), None)
        stand_in = self._drawn(pairs[0], prepared, reports) if good is None else good
        return [stand_in if pair is None else pair for pair in kept]

    def _drawn(self, pair: Pair, prepared: dict[Sample, Row], reports: list[dict[str, Any]]) -> Pair:
        """A good row of the pair's task."""
        assert self.dataset is not None
        source = next(source for source in self.dataset.sources if source.name == pair.source)
        draws = np.random.default_rng((zlib.crc32(pair.source.encode()), pair.row))
        for index in draws.integers(source.start, source.stop, size=TRIES).tolist():
            drawn = self.dataset[index]
            found, failures = self._prepare([drawn])
            whole = without_bad(drawn, failures, reports)
            if whole is not None:
                prepared.update(found)
                return whole
        raise ValueError(
            f"{pair.source}, row {pair.row} cannot be used, nor any of {TRIES} rows of {pair.source} that were drawn "
            f"in its place ({reports[-1]['reason']}); mend the files, or leave {pair.source} out."
        )


def failures_among(pairs: Sequence[Pair], unusable: Mapping[int, str]) -> Failures:
    """The samples of some pairs that are among the unusable ones, which have keys and reasons."""
    keys: dict[Sample, int] = {}
    for sample in owners_of(pairs) if unusable else ():
        with contextlib.suppress(MediaError):  # a picture that cannot be read is named where it is opened
            keys[sample] = sample.key()
    return {sample: ValueError(unusable[key]) for sample, key in keys.items() if key in unusable}


def without_bad(pair: Pair, failures: Mapping[Sample, Exception], reports: list[dict[str, Any]]) -> Pair | None:
    """The pair without its bad negatives; None where its query or its positive is bad. Reports each."""
    bad = [("query", 0, pair.query), ("positive", 0, pair.positive)]
    bad = [entry for entry in bad if entry[2] in failures]
    usable = not bad
    bad += [("negative", place, sample) for place, sample in enumerate(pair.negatives) if sample in failures]
    reports += [report(pair, role, place, sample, failures[sample]) for role, place, sample in bad]
    if not usable:
        return None
    good = [place for place, sample in enumerate(pair.negatives) if sample not in failures]
    kept: dict[str, Any] = {
        name: tuple(said[place] for place in good) for name in _OF_NEGATIVES if (said := getattr(pair, name))
    }
    return dataclasses.replace(pair, **kept)


def report(pair: Pair, role: str, place: int, sample: Sample, error: Exception) -> dict[str, Any]:
    """What is said of a bad sample, as JSON takes it: where it stands, what it is, and why it is bad."""
    files = [*map(str, sample.images), *([sample.video] if sample.video is not None else [])]
    named = {"source": pair.source, "row": pair.row, "role": role, "place": place}
    return {**named, "files": files, "text": sample.text[:200], "reason": str(error)}
