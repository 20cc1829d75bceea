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
from .offers import discover
from .probes import KINDS, Probe, make_probes
from .reference import Reference, open_reference
from .table import Report

# Of float32 beside float32: other kernels move a model of 24 layers by less than 1e-9, and a picture that is resized
# by another library by 1e-6.
TOLERANCE = 1e-7
LOOSE = 5e-3  # where the folder's vectors are computed in 16 bits


def check_server(
    model: str | os.PathLike[str],
    url: str,
    *,
    served: str | None = None,
    forms: Sequence[str] = tuple(FORMS),
    skip: Collection[str] = (),
    key: str | None = None,
    tolerance: float | None = None,
    dtype: str = "float32",
    device: str = "cpu",
    timeout: float = 120.0,
) -> Report:
    """Sends fixed inputs to a server in each of its request forms, and compares its vectors with the folder's own.

    Args:
        model: The folder or Hub id of the LLaVE model that is served, or that the served folder was exported from.
        url: `http://host:port`.
        served: The server's name for it; None takes the server's only one.
        forms: Names of [`FORMS`] to try.
        skip: Names of [`KINDS`] to leave out.
        key: The API key.
        tolerance: How far from 1 a cosine may be; None takes [`TOLERANCE`], or [`LOOSE`] for a `dtype` of 16 bits.
        dtype: What the folder's own vectors are computed in.
        device: And where.
        timeout: Seconds for one answer.

    Raises:
        UserError: There is no server or no model, it wants a key, it knows no such model, it offers none of the forms,
            or the folder does not give the vectors of its own fingerprint.
    """
    chosen = _chosen(forms, skip)
    client = Client(url, key, timeout)
    offers = discover(client, served)
    reference = open_reference(model, dtype, device)
    limit = min(reference.processor.max_length, offers.limit or reference.processor.max_length)
    probes = [probe for probe in _probes(reference, limit) if probe.kind not in skip]
    if tolerance is None:
        tolerance = TOLERANCE if dtype == "float32" else LOOSE
    expected, notes = _expected(reference, probes)
    _check_fingerprint(model, expected, dtype)
    sent = [probe for probe in probes if probe.name in expected]
    empty_prompt = next((name for name, prompt in reference.prompts.items() if not prompt), None)
    if skip:
        notes.append(f"Left out by --skip: {', '.join(KINDS[kind] for kind in KINDS if kind in skip)}.")
    asked = ask(client, offers, chosen, expected, sent, tolerance, empty_prompt)
    if not asked.outcomes:
        tried = "; ".join(f"{name}: {message}" for name, message in asked.not_offered.items())
        raise UserError(f"{client.url} offers none of the request forms ({tried}); is it an embedding server?")
    report = Report(
        client.url,
        offers.model,
        os.fspath(model),
        reference.size,
        dtype,
        device,
        tolerance,
        limit,
        asked,
        notes=notes,
        kinds=[kind for kind in KINDS if any(probe.kind == kind for probe in sent)],
    )
    _explain(report, Diagnosis(reference, expected), sent)
    return report


def write_report(report: Report, file: str | os.PathLike[str]) -> None:
    """Writes a report as JSON; the folder is made where it is missing."""
    path = Path(file)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report.as_json(), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _chosen(forms: Sequence[str], skip: Collection[str]) -> list[Form]:
    for name, value, known in (("--forms", forms, FORMS), ("--skip", skip, KINDS)):
        if unknown := [one for one in value if one not in known]:
            raise UserError(f"{name} has no {', '.join(map(repr, unknown))}; choose from {', '.join(known)}.")
    return [FORMS[name] for name in FORMS if name in forms]


def _probes(reference: Reference, limit: int) -> list[Probe]:
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


def _check_fingerprint(model: str | os.PathLike[str], expected: dict[str, np.ndarray], dtype: str) -> None:
    if find_file(model, FILE) is None:
        return
    fingerprint = read_fingerprint(model)
    exact = dtype == fingerprint["dtype"] == "float32"
    for name, stages in fingerprint["samples"].items():
        if name not in expected or "vector" not in stages:
            continue
        allowed = FINGERPRINT_TOLERANCE if exact and not stages["pixels"] else LOOSE_TOLERANCE
        found = compare("vector", stages["vector"], summary(expected[name]), tolerance=allowed, exact_pixels=False)
        if not found.agrees:
            raise UserError(
                f"{os.fspath(model)} does not give the vectors of its own {FILE} here ({name!r} {found.detail}), so a "
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
