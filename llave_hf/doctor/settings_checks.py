"""Settings of a recipe that contradict each other, or the point of the method."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from llave_hf.training.recipe.notes import settings_notes
from llave_hf.training.recipe.recipe import Recipe

from .findings import NOTE, OK, PROBLEM, Finding


def check_settings(recipe: Recipe) -> Iterator[Finding]:
    """Of the recipe alone: the data and the model are not opened."""
    args = recipe.training
    yield Finding(OK, "settings", f"every key of the recipe is known; output goes to {args.output_dir}")
    for text in settings_notes(recipe):
        yield Finding(NOTE, "settings", text)
    if args.gradient_accumulation_steps > 1:
        text = f"gradient_accumulation_steps {args.gradient_accumulation_steps} adds no negatives; raise the batch"
        yield Finding(NOTE, "settings", text)
    if args.hardness_strength > 0 and args.per_device_train_batch_size < 8:
        text = f"{args.per_device_train_batch_size} pairs a device: the weights have few negatives to choose from"
        yield Finding(NOTE, "settings", text)
    if args.hardness_mode != "in_batch_negatives" and not args.use_negatives:
        text = f"hardness_mode {args.hardness_mode} weighs rows' own negatives, but use_negatives is off"
        yield Finding(PROBLEM, "settings", text)
    if not args.gather_across_devices:
        yield Finding(NOTE, "settings", "gather_across_devices is off: other devices' documents are no negatives")
    if (Path(args.output_dir) / "config.json").exists() and not args.resume_from_checkpoint:
        yield Finding(PROBLEM, "settings", f"{args.output_dir} already holds a model; name another folder")
