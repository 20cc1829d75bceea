"""Whether graded labels say more than which candidate is the positive, and have the right sign."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from llave_hf.data.look.spread import evenly
from llave_hf.data.samples import Pair
from llave_hf.training.recipe.arguments import LlaveTrainingArguments

from .findings import NOTE, OK, Finding, Patient

LOOKED_AT = 200  # rows a task
ONE_HOT = 0.99


def check_grades(patient: Patient) -> Iterator[Finding]:
    """Of the columns `pos_score` and `neg_score`: how sharp they are at their temperature, and whose is highest."""
    args, dataset = patient.recipe.training, patient.dataset
    if dataset is None or not args.distill_weight or args.distill_source != "column":
        return
    for source in dataset.sources:
        rows = source.start + evenly(len(source), min(len(source), LOOKED_AT))
        pairs = [pair for pair in map(dataset.__getitem__, rows.tolist()) if pair.negatives]
        graded = [pair for pair in pairs if pair.score is not None and pair.negative_scores]
        if graded and len(graded) == len(pairs):  # others are named where rows are looked at
            yield from _told(source.name, graded, args)


def _told(name: str, pairs: list[Pair], args: LlaveTrainingArguments) -> Iterator[Finding]:
    temperature = args.teacher_temperature
    if temperature is None:
        temperature = (args.temperature_by_task or {}).get(name, args.temperature)
    targets = [torch.tensor([pair.score, *(pair.negative_scores or ())]).div(temperature).softmax(0) for pair in pairs]
    sharp = sum(float(target.max()) > ONE_HOT for target in targets) / len(targets)
    above = sum(bool((target[1:] > target[0]).any()) for target in targets) / len(targets)
    text = (
        f"{name}: graded labels at temperature {temperature:g} put over {ONE_HOT:.0%} on one candidate in {sharp:.0%}"
    )
    if sharp > 0.5:
        yield Finding(NOTE, "data", f"{text} of rows: they say little more than a label. Raise teacher_temperature")
    else:
        yield Finding(OK, "data", f"{text} of rows")
    if above > 0.5:
        yield Finding(
            NOTE,
            "data",
            f"{name}: in {above:.0%} of rows a negative has a higher score than the positive, and is pulled above it; "
            "scores say how well a candidate answers, and not how hard it is",
        )
