"""The whole check of a running server: own vectors, its answers, and the faults that explain what is off."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np

from llave_hf.errors import UserError
from llave_hf.hub.fingerprint.comparison import compare
from llave_hf.hub.fingerprint.fingerprint import FILE, read_fingerprint
from llave_hf.hub.fingerprint.stages import summary
from llave_hf.hub.fingerprint.verify import LOOSE_TOLERANCE
from llave_hf.hub.fingerprint.verify import TOLERANCE as FINGERPRINT_TOLERANCE
from llave_hf.runtime.places import find_file
from llave_hf.runtime.progress import patient_bar

from .asking import Asked, ask
from .client import Client
from .diagnosis import Diagnosis
from .forms import FORMS, Form
from .offers import Offers
from .probes import KINDS, Probe, make_probes
from .reference import Reference
from .table import Report

# Of float32 beside float32: other kernels move a model of 24 layers by less than 1e-9, and a picture that is resized
# by another library by 1e-6.
TOLERANCE = 1e-7
LOOSE = 5e-3  # where the folder's vectors are computed in 16 bits


def check_server(
    reference: Reference,
    client: Client,
    offers: Offers,
    *,
    forms: Sequence[str] = tuple(FORMS),
    skip: Collection[str] = (),
    tolerance: float | None = None,
) -> Report:
    """Sends fixed inputs to a server in each of its request forms, and compares its vectors with the model's own.

    Args:
        reference: The LLaVE model that is served, or that the served folder was exported from.
        client, offers: The server.
        forms: Names of [`FORMS`] to try.
        skip: Names of [`KINDS`] to leave out.
        tolerance: How far from 1 a cosine may be; None takes [`TOLERANCE`], or [`LOOSE`] where the model computes in
            16 bits.

    Raises:
        UserError: The server is gone or wants a key, it knows no such model, it offers none of the forms, or the
            folder does not give the vectors of its own fingerprint.
    """
    chosen = chosen_forms(forms, skip)
    limit = min(reference.processor.max_length, offers.limit or reference.processor.max_length)
    probes = [probe for probe in probes_of(reference, limit) if probe.kind not in skip]
    if tolerance is None:
        tolerance = TOLERANCE if reference.dtype == "float32" else LOOSE
    expected, notes = _expected(reference, probes)
    _check_fingerprint(reference, expected)
    sent = [probe for probe in probes if probe.name in expected]
    empty_prompt = next((name for name, prompt in reference.prompts.items() if not prompt), None)
    if skip:
        notes.append(f"Left out by --skip: {', '.join(KINDS[kind] for kind in KINDS if kind in skip)}.")
    asked = ask(client, offers, chosen, expected, sent, tolerance, empty_prompt)
    if not asked.outcomes:
        tried = "; ".join(f"{name}: {message}" for name, message in asked.not_offered.items())
        raise UserError(f"{client.url} offers none of the request forms ({tried}); is it an embedding server?")
    kinds = [kind for kind in KINDS if any(probe.kind == kind for probe in sent)]
    report = Report(client.url, offers.model, reference, tolerance, limit, asked, notes=notes, kinds=kinds)
    _explain(report, Diagnosis(reference, expected), sent)
    return report


def write_report(report: Report, file: str | os.PathLike[str]) -> None:
    """Writes a report as JSON; the folder is made where it is missing."""
    path = Path(file)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report.as_json(), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def chosen_forms(forms: Sequence[str], skip: Collection[str]) -> list[Form]:
    """The forms of some names; raises [`UserError`] where a form or kind is unknown."""
    for name, value, known in (("--forms", forms, FORMS), ("--skip", skip, KINDS)):
        if unknown := [one for one in value if one not in known]:
            raise UserError(f"{name} has no {', '.join(map(repr, unknown))}; choose from {', '.join(known)}.")
    return [FORMS[name] for name in FORMS if name in forms]


def probes_of(reference: Reference, limit: int) -> list[Probe]:
    """All inputs for a model; `limit` is the longest sequence that model and server take."""
    return make_probes(
        image_mark=reference.processor.image_token if reference.has_vision else None,
        prompts=reference.prompts,
        size=reference.size,
        limit=limit,
        tokens=reference.count,
    )


def _expected(reference: Reference, probes: Sequence[Probe]) -> tuple[dict[str, np.ndarray], list[str]]:
    """The folder's own vectors by the probes' names, and which inputs it cannot take itself."""
    expected, notes = {}, []
    for probe in patient_bar(probes, "Own vectors", unit="input"):
        try:
            expected[probe.name] = reference.vector(probe)
        except ValueError as error:  # pictures alone may be longer than max_length
            notes.append(f"Left out, as the model itself cannot take it: {probe.name} ({error})")
    return expected, notes


def _check_fingerprint(reference: Reference, expected: dict[str, np.ndarray]) -> None:
    if find_file(reference.name, FILE) is None:
        return
    fingerprint = read_fingerprint(reference.name)
    exact = reference.dtype == fingerprint["dtype"] == "float32"
    for name, stages in fingerprint["samples"].items():
        if name not in expected or "vector" not in stages:
            continue
        allowed = FINGERPRINT_TOLERANCE if exact and not stages["pixels"] else LOOSE_TOLERANCE
        found = compare("vector", stages["vector"], summary(expected[name]), tolerance=allowed, exact_pixels=False)
        if not found.agrees:
            raise UserError(
                f"{reference.name} does not give the vectors of its own {FILE} here ({name!r} {found.detail}), so a "
                "server cannot be compared with it; `llave verify` without --url says where they part."
            )


def _explain(report: Report, diagnosis: Diagnosis, probes: Sequence[Probe]) -> None:
    """Finds out why what is off is so, probe by probe, so that a fault's vector serves all forms."""
    off: Asked = Asked([outcome for outcome in report.asked.outcomes if outcome.verdict == "off"])
    for probe in patient_bar(probes, "Explaining", unit="input"):
        found = [outcome for outcome in off.outcomes if outcome.probe is probe and outcome.vector is not None]
        vectors = [outcome.vector for outcome in found if outcome.vector is not None]
        if vectors:
            causes = diagnosis.causes(probe, vectors)
            report.causes |= {
                (outcome.form.name, probe.name): cause for outcome, cause in zip(found, causes, strict=True)
            }
