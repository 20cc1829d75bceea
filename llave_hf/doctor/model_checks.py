"""Whether the model opens, what of it is trained, and whether its checkpoints fit on the disk."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

from llave_hf.training.recipe.tuning import LoraSettings, frozen_parts

from .findings import NOTE, OK, PROBLEM, Finding, Patient
from .model_sizes import config_of, parameter_bytes, part_sizes
from .tuned_sizes import tuned_sizes


def check_model(patient: Patient) -> Iterator[Finding]:
    """The configuration, and the parameters that are trained and frozen."""
    recipe = patient.recipe
    sizes, tuned = part_sizes(recipe), tuned_sizes(recipe)
    frozen = frozen_parts(recipe.training.freeze, recipe.training.lora)
    adapted = LoraSettings.of(recipe.training.lora).parts if recipe.training.lora is not None else ()
    notes = dict.fromkeys(frozen, " (frozen)") | dict.fromkeys(adapted, " (frozen, with adapters)")
    parts = ", ".join(f"{part} {count:,}{notes.get(part, '')}" for part, count in sizes.items())
    text = f"{config_of(recipe).backbone_config.model_type}: {parts}; {tuned.trained:,} trained"
    if tuned.adapters:
        text += f", {tuned.adapters:,} of them in adapters"
    frozen_count = sum(sizes.values()) - tuned.whole
    yield Finding(OK, "model", text + (f", {frozen_count:,} frozen" if frozen_count else ""))


def check_disk(patient: Patient) -> Iterator[Finding]:
    """Whether the checkpoints fit."""
    args = patient.recipe.training
    folder = Path(args.output_dir).absolute()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    weights = parameter_bytes(patient.recipe)
    kept = (args.save_total_limit or 1) + 1  # the old one is removed after the new one is written
    tuned = tuned_sizes(patient.recipe)
    # An adapter's checkpoint holds what is trained; both hold two moments of it. And the final folder.
    needed = (tuned.states if tuned.adapters else tuned.weights + tuned.states * 2 / 3) * kept + weights
    unlimited = "" if args.save_total_limit else ", and save_total_limit is not set: every checkpoint stays"
    text = f"{needed / 1e9:.1f} GB for {kept} checkpoints and the model, {free / 1e9:.1f} GB free{unlimited}"
    yield Finding(PROBLEM if needed > free else NOTE if unlimited else OK, "disk", text)
