"""From a sweep's YAML file to its runs, every recipe checked before anything is trained."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from llave_hf.errors import UserError
from llave_hf.runtime.places import check_output_folder
from llave_hf.runtime.shipped_recipes import named_like
from llave_hf.training.recipe.checks import check_keys
from llave_hf.training.recipe.recipe import Recipe, RecipeLoader, known_keys, load_recipe

from .checks import check_number, check_seeds, check_share, mapping, named_entries
from .plan import Comparison, Group, Run, Sweep, Variant, slug, what
from .recorded import Recorded, read_recorded

SWEEP_KEYS = ("base", "settings", "seeds", "budget_pairs", "groups", "decide")
GROUP_KEYS = ("about", "settings", "seeds", "reference", "variants")
SHARE = "budget_share"  # beside a variant's keys: of budget_pairs, where its rows bring more to encode
# A variant that set one of them would be no longer comparable, or another run.
OWN_KEYS = ("seed", "max_steps", "num_train_epochs", "output_dir", "resume_from_checkpoint", "disable_tqdm")


def load_sweep(
    path: str | Path,
    output: str | Path,
    overrides: Sequence[str] = (),
    *,
    budget_pairs: int | None = None,
    processes: int = 1,
    results: str | Path | None = None,
) -> Sweep:
    """Reads a sweep and checks every recipe of it.

    What comes later counts: the base recipe, the sweep's `settings`, `overrides`, the group's `settings`, the variant.
    Variants whose recipes are equal share their runs. `budget_share` in a group's `settings` or in a variant is no key
    of recipes: such runs train on that share of the pairs.

    Args:
        path: A YAML file with `base` (relative to it), `settings`, `seeds`, `budget_pairs`, `groups` and `decide`.
        output: Folder of all that is written.
        overrides: As on a command line, see [`load_recipe`].
        budget_pairs: Training pairs of each run, instead of the file's.
        processes: That share a run.
        results: A file of finished runs' numbers, see [`read_recorded`]: what stands there is not run again.

    Raises:
        UserError: The file, a group, a variant or its recipe is not right; names which.
    """
    file = Path(path)
    raw = _read(file)
    check_output_folder(output, "The output folder")
    for flag in overrides:
        _check_free(flag.removeprefix("--").partition("=")[0] if flag.startswith("--") else "", "the command line")
    sweep = Sweep(
        file=file,
        output=Path(output),
        base=file.parent / str(raw["base"]),
        settings=mapping(raw.get("settings", {}), f"{file}: settings"),
        overrides=tuple(overrides),
        budget_pairs=check_number(
            raw.get("budget_pairs") if budget_pairs is None else budget_pairs, f"{file}: budget_pairs"
        ),
        seeds=check_seeds(raw.get("seeds"), f"{file}: seeds"),
        processes=processes,
        groups=(),
        recorded=None if results is None else read_recorded(results),
    )
    reader = _Reader(sweep)
    groups = [reader.group(name, entry) for name, entry in named_entries(raw, "groups", str(file)).items()]
    pictures = [group.picture for group in groups]
    for group in groups:
        if pictures.count(group.picture) > 1:
            raise UserError(f"{file}: two groups would write {group.picture}; rename {group.name!r}.")
    return replace(sweep, groups=tuple(groups), decides=_decides(raw.get("decide"), groups, f"{file}: decide"))


@dataclass
class _Reader:
    """Makes groups of a sweep that has none yet; knows the label of each recipe that it has seen."""

    sweep: Sweep
    labels: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        where = f"{self.sweep.file}: settings"
        self.common = [*_flags(self.sweep.settings, where), *self.sweep.overrides]
        load_recipe(self.sweep.base, self.common)  # an error here is told of what all share, not of a variant

    def group(self, name: str, entry: Any) -> Group:
        where = f"{self.sweep.file}: group {name!r}"
        entry = mapping(entry, where)
        check_keys(entry, GROUP_KEYS, where)
        settings = mapping(entry.get("settings", {}), f"{where}: settings")
        seeds = check_seeds(entry["seeds"], f"{where}: seeds") if "seeds" in entry else self.sweep.seeds
        variants = []
        for label, changes in named_entries(entry, "variants", where).items():
            changes = {**settings, **mapping(changes, f"{where}, variant {label!r}")}
            variants.append(self.variant(name, label, changes, seeds))
        reference = str(entry.get("reference"))
        if reference not in [variant.name for variant in variants]:
            names = ", ".join(variant.name for variant in variants)
            raise UserError(f"{where}: reference is {reference!r}; name one of its variants: {names}.")
        seen: dict[Path, str] = {}
        for variant in variants:
            twin = seen.setdefault(variant.runs[0].folder, variant.name)
            if twin != variant.name:
                raise UserError(f"{where}: {twin!r} and {variant.name!r} are the same recipe; leave one out.")
        return Group(name, str(entry.get("about", "")).strip(), reference, tuple(variants), seeds)

    def variant(self, group: str, name: str, changes: Mapping[str, Any], seeds: Sequence[int]) -> Variant:
        where = f"{self.sweep.file}: group {group!r}, variant {name!r}"
        flags = _flags({key: value for key, value in changes.items() if key != SHARE}, where)
        try:
            recipe = load_recipe(self.sweep.base, [*self.common, *flags])
        except ValueError as error:
            raise UserError(f"{where}: {error}") from error
        if recipe.data.eval_benchmark is None:
            raise UserError(f"{where}: eval_benchmark is missing; name one, or there is nothing to compare.")
        pairs = check_share(changes.get(SHARE, 1), self.sweep.budget_pairs, f"{where}: {SHARE}")
        steps = self._steps(recipe, pairs, where)
        raw = {**what(recipe.raw), "max_steps": steps, "disable_tqdm": True}
        raw = {key: value for key, value in raw.items() if key not in ("seed", "num_train_epochs")}
        digest = _digest([raw, self.sweep.processes])
        label = self.labels.setdefault(digest, f"{group}: {name}")
        folder = _folder(self.sweep.output / "runs", label, digest)
        recorded = self.sweep.recorded or Recorded(Path())
        runs = []
        for seed in seeds:
            content = {**raw, "seed": seed}
            numbers = recorded.get(content, self.sweep.processes)
            place = folder / f"seed-{seed}"
            runs.append(Run(label, seed, content, pairs, steps, place, recipe.training.use_cpu, numbers))
        return Variant(name, changes, tuple(runs))

    def _steps(self, recipe: Recipe, pairs: int, where: str) -> int:
        args, whole = recipe.training, self.sweep.budget_pairs
        batch = args.per_device_train_batch_size * args.gradient_accumulation_steps * self.sweep.processes
        steps, rest = divmod(pairs, batch)
        if rest or not steps:
            given = f"budget_pairs {pairs:,} is" if pairs == whole else f"{pairs:,}, its share of {whole:,}, are"
            raise UserError(
                f"{where}: a step takes {batch:,} pairs, and {given} no multiple of it; give "
                f"{max(1, steps) * batch * whole // pairs:,}, say, so that all variants train on as many."
            )
        return steps


def _decides(raw: Any, groups: Sequence[Group], where: str) -> tuple[tuple[Comparison, ...], ...]:
    """Families of comparisons: names of variants by group, or a list of such mappings."""
    by_name = {group.name: group for group in groups}
    several = isinstance(raw, list)
    entries = [(one, f"{where}, family {number}") for number, one in enumerate(raw, 1)] if several else [(raw, where)]
    families = [_family(one, by_name, place) for one, place in entries]
    named = [comparison for family in families for comparison in family]
    if len(set(named)) < len(named):
        raise UserError(f"{where} names a variant twice; a test more would make the others less likely to count.")
    return tuple(family for family in families if family)


def _family(raw: Any, by_name: Mapping[str, Group], where: str) -> tuple[Comparison, ...]:
    found: list[Comparison] = []
    for name, variants in mapping(raw, where).items():
        if str(name) not in by_name:
            raise UserError(f"{where} names group {name!r}; there are {', '.join(map(repr, by_name))}.")
        group = by_name[str(name)]
        others = [variant.name for variant in group.variants if variant.name != group.reference]
        if not isinstance(variants, list) or not variants:
            raise UserError(f"{where}, group {name!r}: {variants!r} is no list of variants; give some of {others}.")
        for variant in map(str, variants):
            if variant not in others:
                raise UserError(
                    f"{where}, group {name!r} names {variant!r}; name variants that are compared with its reference: "
                    f"{', '.join(others)}."
                )
            found.append(Comparison(group.name, variant))
    return tuple(found)


def _read(file: Path) -> dict[str, Any]:
    if not file.is_file():
        raise UserError(f"sweep {file} does not exist; {named_like(file)}")
    try:
        raw = mapping(yaml.load(file.read_text(encoding="utf-8"), RecipeLoader), str(file))
    except yaml.YAMLError as error:
        raise UserError(f"sweep {file} is no valid YAML: {error}") from error
    check_keys(raw, SWEEP_KEYS, str(file))
    if "base" not in raw:
        raise UserError(f"{file} has no base; name the recipe that the variants change, relative to this file.")
    return raw


def _digest(content: Any) -> str:
    """Eight characters, the same for 9 and 9.0."""
    numbers = json.loads(json.dumps(content), parse_int=float)
    return hashlib.sha256(json.dumps(numbers, sort_keys=True).encode()).hexdigest()[:8]


def _folder(root: Path, label: str, digest: str) -> Path:
    """Where a recipe's runs are: also under the name that a variant had before it was renamed."""
    return next(iter(sorted(root.glob(f"*-{digest}"))), root / f"{slug(label)}-{digest}")


def _flags(changes: Mapping[str, Any], where: str) -> list[str]:
    """Keys and values as a command line has them; JSON is YAML."""
    check_keys([str(key).partition(".")[0] for key in changes], known_keys(), where)
    for key in changes:
        _check_free(key, where)
    return [f"--{key}={json.dumps(value, ensure_ascii=False)}" for key, value in changes.items()]


def _check_free(key: str, where: str) -> None:
    if key in OWN_KEYS:
        raise UserError(f"{where} sets {key}, which the sweep itself does; see seeds, budget_pairs and --output.")
