"""What came of a check, as a table for people and as JSON for programs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from .asking import Asked, Outcome
from .diagnosis import Cause
from .probes import KINDS, OPTIONAL
from .reference import Reference

_HEAD = ("form", "inputs", "n", "least cosine", "norm", "")
_BAD = ("off", "failed")


@dataclass
class Report:
    """A checked server.

    Attributes:
        url, served: The server, and its name for the model.
        reference: The model that it is compared with.
        tolerance: How far from 1 a cosine may be.
        limit: Longest sequence in tokens that was sent.
        asked: What came back.
        causes: Why vectors are off, by form and probe.
        notes: What was left out, and why.
        kinds: Kinds of inputs that were sent.
    """

    url: str
    served: str | None
    reference: Reference
    tolerance: float
    limit: int
    asked: Asked
    causes: dict[tuple[str, str], Cause] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    kinds: Sequence[str] = ()

    @property
    def not_carried(self) -> list[str]:
        """Kinds that no form carries, of those that one must."""
        carried = {outcome.probe.kind for outcome in self.asked.outcomes if outcome.verdict in ("right", *_BAD)}
        return [kind for kind in self.kinds if kind not in carried and kind not in OPTIONAL]

    @property
    def agrees(self) -> bool:
        """Whether all vectors are right, and every kind of input has a form that carries it."""
        return not self.not_carried and all(outcome.verdict not in _BAD for outcome in self.asked.outcomes)

    @property
    def lines(self) -> list[str]:
        """The table, then why what is off is so."""
        named = "" if self.served is None else f", model {self.served}"
        own = self.reference
        head = (
            f"{self.url}{named}, beside {own.name} ({own.dtype}, {own.device}): vectors of {own.size} numbers, "
            f"up to {self.limit} tokens; a cosine may be {self.tolerance:g} below 1."
        )
        refused = [kind for kind in self.not_carried if self._outcomes(kind)]
        untold = [kind for kind in self.not_carried if kind not in refused]
        missing = [f"No form carries {KINDS[kind]}: the server refuses each that was tried." for kind in refused]
        missing += [f"No form carries {KINDS[kind]}." for kind in untold]
        return [head, "", *self._table(), *self._reasons(), *missing, *self.notes, self._verdict()]

    def as_json(self) -> dict[str, Any]:
        """All of it, each probe in each form by itself."""
        forms: dict[str, Any] = {}
        for outcome in self.asked.outcomes:
            forms.setdefault(outcome.form.name, {"offered": True, "inputs": []})["inputs"].append(self._entry(outcome))
        for name, message in self.asked.not_offered.items():
            forms[name] = {"offered": False, "message": message, "inputs": []}
        return {
            "agrees": self.agrees,
            "url": self.url,
            "served": self.served,
            "model": self.reference.name,
            **{name: getattr(self.reference, name) for name in ("size", "dtype", "device")},
            "tolerance": self.tolerance,
            "limit": self.limit,
            "not_carried": self.not_carried,
            "notes": self.notes,
            "forms": forms,
        }

    def _entry(self, outcome: Outcome) -> dict[str, Any]:
        cause = self._cause(outcome)
        entry = {
            "name": outcome.probe.name,
            "kind": outcome.probe.kind,
            "verdict": outcome.verdict,
            "cosine": outcome.cosine,
            "norm": outcome.norm,
            "message": outcome.message,
        }
        if cause is None:
            return entry
        nearest = [{"fault": name, "cosine": near} for name, near in cause.nearest]
        why = {"fault": cause.name or None, "advice": cause.advice, "cosine": cause.cosine, "nearest": nearest}
        return {**entry, "cause": why}

    def _cause(self, outcome: Outcome) -> Cause | None:
        return self.causes.get((outcome.form.name, outcome.probe.name))

    def _outcomes(self, kind: str) -> list[Outcome]:
        return [outcome for outcome in self.asked.outcomes if outcome.probe.kind == kind]

    def _table(self) -> list[str]:
        groups: dict[tuple[str, str], list[Outcome]] = {}
        for outcome in self.asked.outcomes:
            groups.setdefault((outcome.form.name, outcome.probe.kind), []).append(outcome)
        rows = [self._row(form, kind, outcomes) for (form, kind), outcomes in groups.items()]
        rows += [(form, "", "", "", "", f"not offered: {why}") for form, why in self.asked.not_offered.items()]
        return _aligned([_HEAD, *rows])

    def _row(self, form: str, kind: str, outcomes: Sequence[Outcome]) -> tuple[str, ...]:
        near = [outcome.cosine for outcome in outcomes if outcome.cosine is not None]
        norms = [outcome.norm for outcome in outcomes if outcome.norm is not None]
        return (
            form,
            KINDS[kind],
            str(len(outcomes)),
            f"{min(near):.8f}" if near else "",
            f"{max(norms, key=lambda norm: abs(norm - 1)):.6f}" if norms else "",
            self._word(kind, outcomes),
        )

    def _word(self, kind: str, outcomes: Sequence[Outcome]) -> str:
        counts = {verdict: [one for one in outcomes if one.verdict == verdict] for verdict in (*_BAD, "refused")}
        words = []
        for verdict, found in counts.items():
            if not found:
                continue
            share = "" if len(found) == len(outcomes) else f" {len(found)} of {len(outcomes)}"
            shown = verdict if verdict == "refused" else verdict.upper()
            why = f": {self._short(found[0])}" if verdict != "refused" else ": as it may be" if kind == "over" else ""
            words.append(f"{shown}{share}{why}")
        return "; ".join(words) or "right"

    def _short(self, outcome: Outcome) -> str:
        cause = self._cause(outcome)
        return outcome.message if cause is None else cause.name or "unknown"

    def _reasons(self) -> list[str]:
        """Each reason once, with where it was met."""
        met: dict[tuple[str, ...], list[Outcome]] = {}
        for outcome in self.asked.outcomes:
            if outcome.verdict in _BAD or (outcome.verdict == "refused" and outcome.probe.kind != "over"):
                met.setdefault(self._reason(outcome), []).append(outcome)
        lines = []
        for (what, *more), outcomes in met.items():
            near = [cause.cosine for one in outcomes if (cause := self._cause(one)) and cause.cosine is not None]
            fits = f" (vectors made so have cosines of {min(near):.8f} or more)" if near else ""
            lines += ["", f"{what}{fits}", *(f"  {line}" for line in more)]
            by_form: dict[str, list[str]] = {}
            for one in outcomes:
                shown = "" if one.cosine is None else f" ({one.cosine:.8f})"
                by_form.setdefault(one.form.name, []).append(f"{one.probe.name}{shown}")
            lines += [f"  {form}: {', '.join(names)}" for form, names in by_form.items()]
        return [*lines, ""]

    def _reason(self, outcome: Outcome) -> tuple[str, ...]:
        cause = self._cause(outcome)
        if cause is None:
            return (f"{outcome.verdict.upper()}: {outcome.message}",)
        if cause.name:
            return (f"OFF: {cause.name}", f"what to do: {cause.advice}")
        nearest = "; ".join(f"{name} ({near:.8f})" for name, near in cause.nearest)
        return ("OFF, unknown: no known fault gives this vector", f"nearest: {nearest or 'none'}")

    def _verdict(self) -> str:
        by_form: dict[str, list[Outcome]] = {}
        for outcome in self.asked.outcomes:
            by_form.setdefault(outcome.form.name, []).append(outcome)
        words: dict[str, list[str]] = {"right": [], "right in part": [], "OFF": []}
        for name, outcomes in by_form.items():
            bad = dict.fromkeys(KINDS[outcome.probe.kind] for outcome in outcomes if outcome.verdict in _BAD)
            if not bad:
                words["right"].append(name)
            elif any(outcome.verdict == "right" for outcome in outcomes):
                words["right in part"].append(f"{name} (off: {', '.join(bad)})")
            else:
                words["OFF"].append(name)
        parts = [f"{word}: {', '.join(names)}" for word, names in words.items() if names]
        if self.not_carried:
            parts.append(f"not carried: {', '.join(KINDS[kind] for kind in self.not_carried)}")
        return "; ".join(parts)


def _aligned(rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(map(len, column)) for column in list(zip(*rows, strict=True))[:-1]]
    return [_line(row, widths) for row in rows]


def _line(row: Iterable[str], widths: Sequence[int]) -> str:
    cells = list(row)
    left = [cell.ljust(width) for cell, width in zip(cells[:2], widths[:2], strict=True)]
    right = [cell.rjust(width) for cell, width in zip(cells[2:-1], widths[2:], strict=True)]
    return "  ".join([*left, *right, cells[-1]]).rstrip()
