"""Sends every probe in every form, and compares what comes back with the model's own vectors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from llave_hf.errors import UserError
from llave_hf.runtime.progress import patient_bar

from .answers import BrokenAnswer
from .client import Client, Reply
from .forms import Form
from .offers import Offers
from .probes import Probe

NORM_TOLERANCE = 1e-3  # of a vector's length, relative: 16-bit numbers move it by a tenth of that
_LATE = 3  # answers in a row that do not come in time end the check
_NOT_NOW = (408, 429)  # it would have answered at another time


@dataclass
class Outcome:
    """What came of one probe in one form.

    Attributes:
        form, probe: Which.
        verdict: `"right"`, `"off"`, `"refused"` (HTTP 4xx), or `"failed"`: no vector came, and not by a refusal.
        cosine: To the model's own vector.
        norm: Of the vector.
        vector: `(D,)`.
        message: What the server said, or what is wrong with its answer.
    """

    form: Form
    probe: Probe
    verdict: str
    cosine: float | None = None
    norm: float | None = None
    vector: np.ndarray | None = None
    message: str = ""


@dataclass
class Asked:
    """Outcomes in the order of forms and probes, and why forms are not offered."""

    outcomes: list[Outcome] = field(default_factory=list)
    not_offered: dict[str, str] = field(default_factory=dict)


def ask(
    client: Client,
    offers: Offers,
    forms: Sequence[Form],
    expected: Mapping[str, np.ndarray],
    probes: Iterable[Probe],
    tolerance: float,
    empty_prompt: str | None,
) -> Asked:
    """Sends everything.

    Args:
        client, offers: The server.
        forms: To be tried.
        expected: The model's own vectors, by the probes' names.
        probes: The inputs that `expected` has.
        tolerance: How far from 1 a cosine may be.
        empty_prompt: The name of one of the model's prompts that is empty.

    Raises:
        UserError: The server is gone, wants another key, or does not know the model.
    """
    asked = Asked()
    probes = list(probes)
    plan = [(form, group) for form in forms for group in _groups(form, probes)]
    late = 0
    for form, group in patient_bar(plan, "Asking", unit="request"):
        if form.name in asked.not_offered:
            continue
        if offers.lacks(form.path):
            asked.not_offered[form.name] = f"its openapi.json has no {form.path}"
            continue
        named = {} if offers.model is None else {"model": offers.model}
        reply = client.post(form.path, {**named, **form.body(group, empty_prompt)})
        _refuse_unknown_model(client, offers, reply)
        late = late + 1 if reply.late else 0
        if late == _LATE:
            raise UserError(f"{client.url} gave {reply.message}, {_LATE} times in a row: is it at work, or too slow?")
        first = not any(outcome.form is form for outcome in asked.outcomes)
        if first and (reply.status == 501 or (reply.refused and reply.status not in _NOT_NOW)):
            asked.not_offered[form.name] = reply.told
            continue
        asked.outcomes += _outcomes(form, group, reply, expected, tolerance)
    return asked


def _groups(form: Form, probes: Sequence[Probe]) -> list[list[Probe]]:
    carried = [probe for probe in probes if form.carries(probe)]
    if form.together:
        return [carried] if carried else []
    return [[probe] for probe in carried]


def _refuse_unknown_model(client: Client, offers: Offers, reply: Reply) -> None:
    unlisted = offers.model is not None and not offers.listed
    if unlisted and reply.status in (400, 404) and str(offers.model) in reply.message:
        raise UserError(
            f"{client.url} does not know the model {offers.model!r} ({reply.told}); name it with --model as the "
            "server does."
        )


def _outcomes(
    form: Form, group: Sequence[Probe], reply: Reply, expected: Mapping[str, np.ndarray], tolerance: float
) -> list[Outcome]:
    if reply.refused and reply.status not in _NOT_NOW:
        return [Outcome(form, probe, "refused", message=reply.told) for probe in group]
    if reply.status is None or reply.status >= 400:
        return [Outcome(form, probe, "failed", message=reply.told) for probe in group]
    try:
        vectors = form.vectors(reply.content, len(group))
    except BrokenAnswer as error:
        return [Outcome(form, probe, "failed", message=str(error)) for probe in group]
    return [
        _compared(form, probe, vector, expected[probe.name], tolerance)
        for probe, vector in zip(group, vectors, strict=True)
    ]


def _compared(form: Form, probe: Probe, vector: np.ndarray, right: np.ndarray, tolerance: float) -> Outcome:
    if vector.shape != right.shape:
        kept = " (`dimensions` was not heeded)" if probe.dimensions is not None else ""
        message = f"the vector has {vector.size} numbers, and the model's have {right.size}{kept}"
        return Outcome(form, probe, "failed", message=message)
    near = cosine(vector, right)
    norm = float(np.linalg.norm(vector))
    agrees = 1 - near <= tolerance and has_norm(norm, right)
    return Outcome(form, probe, "right" if agrees else "off", near, norm, vector)


def has_norm(norm: float, right: np.ndarray) -> bool:
    """Whether a vector has the length that it should have."""
    return abs(norm / float(np.linalg.norm(right)) - 1) <= NORM_TOLERANCE


def cosine(first: np.ndarray, second: np.ndarray) -> float:
    """Of two vectors `(D,)`."""
    return float(first @ second / (np.linalg.norm(first) * np.linalg.norm(second)))
