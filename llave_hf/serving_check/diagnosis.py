"""Which known fault gives the vector that a server gave."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from .asking import NORM_TOLERANCE, cosine, has_norm
from .faults import Fault
from .media_faults import media_faults
from .probes import Probe
from .prompt_faults import prompt_faults
from .readings import readings
from .reference import Reference, Row

FITS = 1e-4  # how far from 1 the cosine of the fault that fits may be ...
CLEARLY = 0.1  # ... and at most this part of how far the right vector is
_SAME = 1e-9  # so near that the direction is right
_EXACT = 1e-10  # so near that no other fault need be tried
_ROUNDED = 8.0  # how many times further from the right vector than this machine's own rounding another one's may be
_SHOWN = 2  # faults that are named where none fits
_ENOUGH = 3  # probes that nothing but rounding explains; then only faults seen before are tried on what is as near
_HALVES = {"float16": torch.float16, "bfloat16": torch.bfloat16}


@dataclass
class Cause:
    """Why a vector is off.

    Attributes:
        name: The fault; empty where none fits.
        advice: What to do.
        cosine: Of the vector that the fault gives to the server's.
        fault: The fault of the sequence in it, see [`Fault`].
        nearest: Where none fits: the nearest faults and their cosines.
    """

    name: str = ""
    advice: str = ""
    cosine: float | None = None
    fault: str = ""
    nearest: list[tuple[str, float]] = field(default_factory=list)


class Diagnosis:
    """Tries faults on one probe after another.

    Args:
        reference: The model.
        expected: Its own vectors, by the probes' names.
    """

    def __init__(self, reference: Reference, expected: Mapping[str, np.ndarray]) -> None:
        self._reference = reference
        self._expected = expected
        self._seen: list[str] = []  # faults that fitted before are tried first
        self._rounded = 0

    def causes(self, probe: Probe, vectors: Sequence[np.ndarray]) -> list[Cause]:
        """Why each of some vectors that a server gave for a probe is off, in their order."""
        searches = [_Search(vector, self._expected[probe.name]) for vector in vectors]
        for search in searches:
            search.try_other_inputs(self._expected, probe)
        right = self._reference.row(probe)
        tried: set[str] = set()
        for fault in self._faults(probe, right):
            known = self._rounded < _ENOUGH or fault.name in self._seen
            open_searches = [search for search in searches if search.wants_more(known)]
            if not open_searches:
                continue
            row = fault.row()
            if (key := row_key(row)) in tried:
                continue
            tried.add(key)
            hidden = self._reference.hidden(row)
            if not fault.name and row is right:
                for search in searches:
                    search.learn_scale(hidden, self._rounding(right, hidden))
            for search in open_searches:
                search.try_fault(self._reference, fault, row, hidden)
        causes = [search.cause() for search in searches]
        self._seen += [cause.fault for cause in causes if cause.fault and cause.fault not in self._seen]
        self._rounded += any(
            search.is_rounding and not cause.fault for search, cause in zip(searches, causes, strict=True)
        )
        return causes

    def _faults(self, probe: Probe, right: Row) -> Iterator[Fault]:
        faults = [*prompt_faults(self._reference, probe, right), *media_faults(self._reference, probe)]
        yield Fault("", "", lambda: right)
        yield from sorted(faults, key=lambda fault: fault.name not in self._seen)  # stable

    def _rounding(self, right: Row, hidden: np.ndarray) -> dict[str, float]:
        """How far rounding to 16 bits moves the right vector here."""
        moved = {}
        for name, dtype in _HALVES.items():
            rounded = self._reference.hidden(right, dtype)[-1]
            if np.isfinite(rounded).all():
                moved[name] = 1 - cosine(rounded, hidden[-1])
        return moved


@dataclass(frozen=True)
class _Candidate:
    """A vector that a fault gives: how far its cosine is from 1, its names, what to do, and its length."""

    away: float
    name: str
    advice: str
    norm: float = 1.0
    fault: str = ""


class _Search:
    """The search for one vector's fault."""

    def __init__(self, vector: np.ndarray, expected: np.ndarray) -> None:
        self.vector = vector
        self.expected = expected
        self.away = 1 - cosine(vector, expected)
        self._candidates: list[_Candidate] = []
        self._rounding: dict[str, float] = {}
        self._raw: np.ndarray | None = None

    def try_other_inputs(self, expected: Mapping[str, np.ndarray], probe: Probe) -> None:
        """The vector of another probe: answers in another order than the inputs."""
        advice = (
            "the answers stand in another order than the inputs: heed (or mend) `index`, or send one input a request"
        )
        for name, other in expected.items():
            if name != probe.name and other.shape == self.vector.shape:
                away = 1 - cosine(self.vector, other)
                self._candidates.append(_Candidate(away, f"it is the vector of {name!r}", advice))

    def learn_scale(self, hidden: np.ndarray, rounding: dict[str, float]) -> None:
        """From the right sequence: the vector before it is normalised, and what rounding does to it."""
        self._raw = hidden[-1]
        self._rounding = rounding

    def wants_more(self, known: bool) -> bool:
        """Whether another fault is worth a forward pass; `known` says that it may explain what rounding would too."""
        if self._raw is None:
            return True
        if self._fitting(_EXACT) or self.away <= _SAME:
            return False
        return known or not self.is_rounding

    def try_fault(self, reference: Reference, fault: Fault, row: Row, hidden: np.ndarray) -> None:
        """All that may be read off the fault's hidden states."""
        for reading in readings(reference, row, hidden, self.vector):
            steps_back = fault.steps_back and reading.name
            names = [name for name in ("" if steps_back else fault.name, reading.name) if name]
            if names:
                advice = reading.advice if steps_back else fault.advice or reading.advice
                self._candidates.append(
                    _Candidate(1 - reading.cosine, " and ".join(names), advice, reading.norm, fault.name)
                )

    def cause(self) -> Cause:
        """The fault that fits, or what was nearest."""
        if self.away <= _SAME and self._raw is not None:
            return Cause(*self._length(float(np.linalg.norm(self._raw[: self.vector.size]))))
        if fitting := self._fitting(FITS):
            best = min(fitting, key=lambda one: one.away)
            length, _ = self._length(best.norm)
            return Cause(f"{best.name}; {length}" if length else best.name, best.advice, 1 - best.away, best.fault)
        if rounding := self._rounding_that_fits():
            advice = "start the server with float32 to see whether anything else is off, or allow it: --tolerance"
            return Cause(f"rounding as of {rounding}", advice)
        nearest = sorted(self._candidates, key=lambda one: one.away)[:_SHOWN]
        return Cause(nearest=[(one.name, 1 - one.away) for one in nearest])

    def _fitting(self, limit: float) -> list[_Candidate]:
        return [one for one in self._candidates if one.away <= min(limit, CLEARLY * self.away)]

    @property
    def is_rounding(self) -> bool:
        """Whether the vector is so near that other products would explain it."""
        return self._rounding_that_fits() is not None

    def _rounding_that_fits(self) -> str | None:
        return next((name for name, moved in self._rounding.items() if self.away <= _ROUNDED * moved), None)

    def _length(self, raw: float) -> tuple[str, str]:
        """What is wrong with the vector's length and what to do; empty where nothing is.

        Args:
            raw: The length that it would have without being normalised.
        """
        norm, wanted = float(np.linalg.norm(self.vector)), float(np.linalg.norm(self.expected))
        if has_norm(norm, self.expected) or self._raw is None:
            return "", ""
        if abs(norm / raw - 1) <= NORM_TOLERANCE:
            return "not normalised", 'normalise what you get, or let the server do it (vLLM: "use_activation": true)'
        width = self.vector.size
        cut = float(np.linalg.norm(self._raw[:width]) / np.linalg.norm(self._raw))
        if width < self._raw.size and abs(norm / cut - 1) <= NORM_TOLERANCE:
            return "cut to `dimensions` and not brought back to length 1", "normalise what you get"
        if abs(norm - 1) <= NORM_TOLERANCE:
            return "normalised, which the model's own vectors are not", "config.json says normalize: false"
        return f"of length {norm:.6g} instead of {wanted:.6g}", "normalise what you get"


def row_key(row: Row) -> str:
    """Equal for equal sequences, of which one need not be run."""
    digest = hashlib.sha256(repr((row.ids, sorted(row.config.items()), sorted(row.backbone_config.items()))).encode())
    for name in sorted(row.tensors):
        value = row.tensors[name].contiguous()
        digest.update(f"{name} {tuple(value.shape)}".encode())
        digest.update(value.cpu().numpy().tobytes())
    return digest.hexdigest()
