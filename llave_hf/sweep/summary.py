"""A sweep's finished runs, group by group: means over seeds and paired differences to the reference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from llave_hf.evaluation.report.order import META_TASKS
from llave_hf.evaluation.results import package_versions

from .outcomes import Outcome, read_outcome
from .plan import Group, Sweep, Variant
from .statistics import Estimate, estimate, paired_difference

FIRST = ("overall", "in", "out", *META_TASKS)  # scores are shown in this order, others after them


@dataclass(frozen=True)
class VariantSummary:
    """A variant's runs taken together; scores and differences 0 to 1, by meta-task, `in`, `out` and `overall`."""

    variant: Variant
    outcomes: tuple[Outcome, ...]
    scores: Mapping[str, Estimate]
    differences: Mapping[str, Estimate]

    @property
    def seconds(self) -> float:
        """Mean of its runs."""
        return fmean(outcome.seconds for outcome in self.outcomes)

    @property
    def telemetry(self) -> dict[str, float]:
        """Means of the numbers that all its runs have."""
        common = [name for name in self.outcomes[0].telemetry if all(name in o.telemetry for o in self.outcomes)]
        return {name: fmean(outcome.telemetry[name] for outcome in self.outcomes) for name in common}


@dataclass(frozen=True)
class GroupSummary:
    """A group and its variants; `missing` ones have no finished run."""

    group: Group
    variants: tuple[VariantSummary, ...]
    missing: tuple[str, ...]

    @property
    def names(self) -> list[str]:
        """Of the scores, in the order in which they are shown."""
        found = {name for entry in self.variants for name in entry.scores}
        return [name for name in FIRST if name in found] + sorted(found.difference(FIRST))

    @property
    def outcomes(self) -> list[Outcome]:
        """Of all its variants."""
        return [outcome for entry in self.variants for outcome in entry.outcomes]


def summarise(sweep: Sweep) -> list[GroupSummary]:
    """Reads every finished run of a sweep, once."""
    read = {run.folder: read_outcome(run) for run in sweep.runs}
    by_group = []
    for group in sweep.groups:
        found = {
            variant.name: tuple(o for run in variant.runs if (o := read[run.folder]) is not None)
            for variant in group.variants
        }
        reference = found[group.reference]
        variants = tuple(
            _variant(variant, found[variant.name], () if variant.name == group.reference else reference)
            for variant in group.variants
            if found[variant.name]
        )
        by_group.append(GroupSummary(group, variants, tuple(name for name, runs in found.items() if not runs)))
    return by_group


def as_json(sweep: Sweep, groups: Sequence[GroupSummary]) -> dict[str, Any]:
    """The content of sweep.json but for what decides."""
    return {
        "sweep": str(sweep.file),
        "base": str(sweep.base),
        "settings": dict(sweep.settings),
        "overrides": list(sweep.overrides),
        "budget_pairs": sweep.budget_pairs,
        "seeds": list(sweep.seeds),
        "processes": sweep.processes,
        "versions": package_versions(),
        "groups": {entry.group.name: _group_json(entry, sweep.output) for entry in groups},
    }


def _variant(variant: Variant, outcomes: Sequence[Outcome], reference: Sequence[Outcome]) -> VariantSummary:
    names = [name for name in outcomes[0].scores if all(name in outcome.scores for outcome in outcomes)]
    by_seed = {name: {o.run.seed: o.scores[name] for o in outcomes} for name in names}
    theirs = {name: {o.run.seed: o.scores[name] for o in reference if name in o.scores} for name in names}
    differences = {name: paired_difference(by_seed[name], theirs[name]) for name in names}
    return VariantSummary(
        variant=variant,
        outcomes=tuple(outcomes),
        scores={name: estimate(list(by_seed[name].values())) for name in names},
        differences={name: value for name, value in differences.items() if value is not None},
    )


def _group_json(entry: GroupSummary, output: Path) -> dict[str, Any]:
    return {
        "about": entry.group.about,
        "reference": entry.group.reference,
        "seeds": list(entry.group.seeds),
        "missing": list(entry.missing),
        "variants": {of.variant.name: _variant_json(of, output) for of in entry.variants},
    }


def _variant_json(entry: VariantSummary, output: Path) -> dict[str, Any]:
    runs = [
        {
            "seed": outcome.run.seed,
            "folder": outcome.run.folder.relative_to(output).as_posix(),
            "steps": outcome.steps,
            "seconds": round(outcome.seconds, 1),
            "scores": dict(outcome.scores),
            "telemetry": dict(outcome.telemetry),
        }
        for outcome in entry.outcomes
    ]
    return {
        "overrides": dict(entry.variant.overrides),
        "scores": {name: asdict(value) for name, value in entry.scores.items()},
        "differences": {
            name: {**asdict(value), "detectable": value.detectable} for name, value in entry.differences.items()
        },
        "telemetry": entry.telemetry,
        "seconds": round(entry.seconds, 1),
        "runs": runs,
    }
