"""What is worth a word about a recipe's settings, before anything is read: a run and the doctor tell the same."""

from __future__ import annotations

from .early_settings import early_settings
from .idle_settings import idle_settings
from .recipe import Recipe


def settings_notes(recipe: Recipe) -> list[str]:
    """Settings without effect, and those that come too early for random weights: one line each. None is an error."""
    return [*idle_settings(recipe), *early_settings(recipe)]
