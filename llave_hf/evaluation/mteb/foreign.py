"""mteb's other models behind `encode(list)`, so that our tasks can be run with them too."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from datasets import Dataset
from mteb.abstasks.task_metadata import TaskMetadata
from torch.utils.data import DataLoader

from llave_hf.errors import UserError
from llave_hf.evaluation.retrieval.vectors import Embeddings, as_array


class ForeignModel:
    """A model with mteb's `encode(DataLoader)`; it takes texts, and a picture with or without a text.

    Args:
        split: Of the task, which mteb's models are told; likewise `subset`.
        options: For the model's `encode`.
    """

    def __init__(self, model: Any, task: TaskMetadata, split: str, subset: str, options: Mapping[str, Any]) -> None:
        self._model = model
        self._where = {"task_metadata": task, "hf_split": split, "hf_subset": subset}
        self._options = options

    def encode(self, inputs: list[Any], *, batch_size: int, show_progress_bar: bool) -> Embeddings:
        """(n, D): texts, pictures, and pictures with texts in a loader each, as mteb's models want alike columns.

        Raises:
            UserError: An input has several pictures or a video.
        """
        rows = [_row(entry) for entry in inputs]
        groups: dict[tuple[str, ...], list[int]] = {}
        for number, row in enumerate(rows):
            groups.setdefault(tuple(row), []).append(number)
        options = {**self._options, "batch_size": batch_size, "show_progress_bar": show_progress_bar}
        parts = []
        for numbers in groups.values():
            data = Dataset.from_list([rows[number] for number in numbers])
            loader = DataLoader(data, batch_size=batch_size, collate_fn=_columns)
            parts.append(as_array(self._model.encode(loader, **self._where, **options)))
        order = np.argsort(np.concatenate(list(groups.values())))
        return np.concatenate(parts)[order]


def _row(entry: Any) -> dict[str, Any]:
    if isinstance(entry, str):
        return {"text": entry}
    if isinstance(entry.get("image"), list) or "video" in entry:
        raise UserError(
            "The task has inputs of several pictures or of video, which are only given to a LlaveMtebModel: wrap the "
            "model's encoder in one."
        )
    # a copy has no file format; with one, datasets would write a JPEG anew, with other pixels
    return {"image": entry["image"].copy()} | ({"text": entry["text"]} if "text" in entry else {})


def _columns(rows: list[dict[str, Any]]) -> dict[str, list[Any]]:
    return {name: [row[name] for row in rows] for name in rows[0]}
