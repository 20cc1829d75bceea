"""Settings that need a model which has learned something, in a recipe that starts from random weights.

Told as a run begins, and by the doctor. They are no errors: whoever compares them may want to.
"""

from __future__ import annotations

from collections.abc import Iterator

from .recipe import Recipe

_LATER = " (recipes/results/hardness.md): train without it first, then go on with --from_scratch null --model FOLDER"


def early_settings(recipe: Recipe) -> Iterator[str]:
    """What comes too early, and what to do: one line each."""
    if recipe.model.from_scratch is None:
        return
    args = recipe.training
    if args.batch_groups:
        yield f"batch_groups from random weights costs points, as hard rows ask for what is not learned yet{_LATER}"
    if (args.false_negative_margin or 0) < 0 and args.contrastive_weight:
        yield (
            "false_negative_margin below 0 from random weights costs points, as what is to be learned comes near its "
            f"positive at first, and is left out{_LATER}"
        )
    if args.focal_margin is not None:
        yield "focal_margin drives a positive whose cosine is below 0 to -1: start from a trained model"
