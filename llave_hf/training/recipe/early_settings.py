"""Settings that need a model which has learned something, in a recipe that starts from random weights.

Told as a run begins, and by the doctor. They are no errors: whoever compares them may want to.
"""

from __future__ import annotations

from collections.abc import Iterator

from .recipe import Recipe


def early_settings(recipe: Recipe) -> Iterator[str]:
    """What comes too early, and what to do: one line each."""
    if recipe.model.from_scratch is None:
        return
    if recipe.training.batch_groups:
        yield (
            "batch_groups from random weights costs points, as hard rows ask for what is not learned yet "
            "(recipes/results/hardness.md): train without it first, then go on with --from_scratch null --model FOLDER"
        )
    if recipe.training.focal_margin is not None:
        yield "focal_margin drives a positive whose cosine is below 0 to -1: start from a trained model"
