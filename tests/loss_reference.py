"""Values of the published loss, and the dense definition of ours."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch.nn import functional as F

FIXTURES = Path(__file__).parent / "fixtures" / "loss"
CASES: list[dict[str, Any]] = json.loads((FIXTURES / "index.json").read_text())
TOLERANCE = {"float32": 1e-5, "float64": 1e-10}


def tensors() -> dict[str, torch.Tensor]:
    """Of `index.json`'s cases: raw features of all ranks, and each rank's loss and gradients."""
    return load_file(FIXTURES / "weighted_clip_loss.safetensors")


def dense(
    queries: torch.Tensor,
    documents: torch.Tensor,
    *,
    temperature: float,
    strength: float,
    directions: tuple[str, ...] = ("query_to_doc", "doc_to_query"),
    masked: torch.Tensor | None = None,
    own: torch.Tensor | None = None,
) -> torch.Tensor:
    """LLaVE's loss in the open: B x B logits, cross entropy both ways. `own` are weighted logits `(B, K)`."""
    similarities = queries @ documents.T
    positives = torch.eye(len(queries), dtype=torch.bool)
    logits = similarities / temperature + (strength * similarities.detach()).masked_fill(positives, 0)
    if masked is not None:
        logits = logits.masked_fill(masked & ~positives, -torch.inf)
    labels = torch.arange(len(queries))
    rows = logits if own is None else torch.cat((logits, own), dim=1)
    values = {"query_to_doc": F.cross_entropy(rows, labels), "doc_to_query": F.cross_entropy(logits.T, labels)}
    return torch.stack([values[direction] for direction in directions]).mean()


def unit(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """Random unit vectors that want a gradient."""
    values = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return F.normalize(values, dim=-1).to(dtype).requires_grad_()
