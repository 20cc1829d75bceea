"""Metrics for `evaluate.load`, a folder with a script each; they work offline and with `evaluate.combine`."""

from __future__ import annotations

from pathlib import Path

MODULES = ("ndcg_at_k", "precision_at_1", "recall_at_k", "similarity_overlap")


def module_path(name: str) -> str:
    """The folder to give to `evaluate.load`.

    Raises:
        ValueError: There is no such module.
    """
    if name not in MODULES:
        raise ValueError(f"There is no evaluate module {name!r}; choose one of {', '.join(MODULES)}.")
    return str(Path(__file__).with_name(name))
