"""Processor outputs cut into rows without padding, and put together again as batches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

Features = dict[str, Any]


@dataclass
class Row:
    """One input as the model takes it.

    Attributes:
        index: The input's place in the list.
        tokens: Tensors with one entry a token, `(T,)` each; `input_ids` among them.
        others: What else the processor gave: pixels and their sizes, with the picture as the first dimension.
    """

    index: int
    tokens: dict[str, torch.Tensor]
    others: Features = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.tokens["input_ids"])


def split_rows(features: Mapping[str, Any], indices: Sequence[int]) -> list[Row]:
    """Rows of a processor's output `(B, T)`, padding removed; only a batch of one may hold pictures."""
    ids, mask = features["input_ids"], features["attention_mask"].bool()
    per_token = {n: v for n, v in features.items() if isinstance(v, torch.Tensor) and v.shape[:2] == ids.shape}
    others = {name: value for name, value in features.items() if name not in per_token}
    lengths = mask.sum(1).tolist()
    parts = {name: value[mask].split(lengths) for name, value in per_token.items() if name != "attention_mask"}
    return [
        Row(index, {name: part[place] for name, part in parts.items()}, others) for place, index in enumerate(indices)
    ]


def join_rows(rows: Sequence[Row], pad_token_id: int) -> Features:
    """One batch, padded on the right; pictures follow each other in the order of the rows."""
    batch: Features = {}
    width = max(len(row) for row in rows)
    for name in rows[0].tokens:
        fill = pad_token_id if name == "input_ids" else 0
        first = rows[0].tokens[name]
        joined = first.new_full((len(rows), width, *first.shape[1:]), fill)
        for place, row in enumerate(rows):
            joined[place, : len(row)] = row.tokens[name]
        batch[name] = joined
    lengths = torch.tensor([len(row) for row in rows])
    batch["attention_mask"] = (torch.arange(width) < lengths[:, None]).long()
    for name in dict.fromkeys(name for row in rows for name in row.others):
        values = [row.others[name] for row in rows if name in row.others]
        batch[name] = _joined(values)
    return batch


def _joined(values: list[Any]) -> Any:
    if isinstance(values[0], torch.Tensor) and values[0].ndim:
        return values[0] if len(values) == 1 else torch.cat(values)
    return [entry for value in values for entry in value] if isinstance(values[0], list) else values[0]
