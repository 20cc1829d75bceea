"""What a sweep trains: groups of variants, and their runs, each of them once."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from llave_hf.training.recipe.recipe import RecipeLoader

from .recorded import Recorded

PLACES = ("output_dir", "resume_from_checkpoint")  # of a recipe: where, not what


@dataclass(frozen=True)
class Run:
    """One training: a recipe with one seed.

    Attributes:
        label: The variant, by the first group that has it.
        recipe: All its keys but where it is written.
        pairs: That it trains on.
        steps: Optimizer steps that those come to.
        folder: Of the model; its recipe, log and time stand beside it.
        use_cpu: Whether it stays on the CPU where there is a GPU.
        recorded: Its numbers from a file of results, where an earlier run of the same recipe left them.
    """

    label: str
    seed: int
    recipe: Mapping[str, Any]
    pairs: int
    steps: int
    folder: Path
    use_cpu: bool
    recorded: Mapping[str, Any] | None = field(default=None, compare=False)

    def __str__(self) -> str:
        return f"{self.label}, seed {self.seed}"

    @property
    def stopped(self) -> bool:
        """Whether there is a checkpoint to go on from."""
        return any(self.folder.glob("checkpoint-*"))

    def beside(self, ending: str) -> Path:
        """A file of the run: `.yaml`, `.log` or `.json`."""
        return self.folder.with_name(self.folder.name + ending)

    @property
    def finished(self) -> bool:
        """Whether its numbers are recorded, or its folder holds the evaluation of a model that this recipe trained."""
        if self.recorded is not None:
            return True
        written = self.folder / "recipe.yaml"
        if not (self.folder / "eval" / "results.json").exists() or not written.exists():
            return False
        return what(yaml.load(written.read_text(encoding="utf-8"), RecipeLoader)) == self.recipe


@dataclass(frozen=True)
class Variant:
    """A name in a group, what it sets, and its runs, one a seed."""

    name: str
    overrides: Mapping[str, Any]
    runs: tuple[Run, ...]


@dataclass(frozen=True)
class Group:
    """Variants that are compared with one of them, the reference.

    Attributes:
        seeds: Of each variant.
    """

    name: str
    about: str
    reference: str
    variants: tuple[Variant, ...]
    seeds: tuple[int, ...]

    @property
    def picture(self) -> str:
        """Name of the file of its plot."""
        return f"{slug(self.name)}.png"


@dataclass(frozen=True)
class Comparison:
    """A variant beside its group's reference, by their names."""

    group: str
    variant: str


@dataclass(frozen=True)
class Sweep:
    """A checked sweep.

    Attributes:
        file: That it was read from.
        output: Folder of all that is written.
        base: The recipe that all variants change.
        settings: What the file sets for all variants.
        overrides: What the command line sets for all of them.
        budget_pairs: Training pairs of each run, but for variants that have a share of them.
        seeds: Of each variant, where its group names no others.
        processes: That share a run.
        recorded: The file that finished runs are entered into; None for none.
        groups: In the file's order.
        decides: The comparisons that decide, in families that are tested together, see [`llave_hf.sweep.decisions`].
    """

    file: Path
    output: Path
    base: Path
    settings: Mapping[str, Any]
    overrides: tuple[str, ...]
    budget_pairs: int
    seeds: tuple[int, ...]
    processes: int
    groups: tuple[Group, ...]
    recorded: Recorded | None = None
    decides: tuple[tuple[Comparison, ...], ...] = ()

    @cached_property
    def runs(self) -> list[Run]:
        """Every run once, a seed of all variants before the next seed: a stopped sweep compares all it has."""
        found = {run.folder: run for group in self.groups for variant in group.variants for run in variant.runs}
        order = list(dict.fromkeys([*self.seeds, *(run.seed for run in found.values())]))
        return sorted(found.values(), key=lambda run: order.index(run.seed))

    def __str__(self) -> str:
        finished = sum(run.finished for run in self.runs)
        return (
            f"{self.file}: {len(self.groups)} groups, {len({run.folder.parent for run in self.runs})} settings, "
            f"{len(self.runs)} runs of {self.budget_pairs:,} pairs, {finished} finished"
        )


def what(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe's keys without those that only say where."""
    return {key: value for key, value in recipe.items() if key not in PLACES}


def slug(text: str) -> str:
    """Letters, digits, points and hyphens, fit for the name of a file."""
    return re.sub(r"[^\w.]+", "-", text.lower(), flags=re.ASCII).strip("-.") or "unnamed"
