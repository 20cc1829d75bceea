"""Vectors as OpenAI's servers send them."""

from __future__ import annotations

import base64
from typing import Any

import torch


def answer_of(vectors: torch.Tensor, tokens: int, model: str, encoding: str) -> dict[str, Any]:
    """The answer of `/v1/embeddings`.

    Args:
        vectors: `(n, D)` float32.
        tokens: Of all inputs.
        model: The served name.
        encoding: `"float"`, or `"base64"` of little-endian float32.
    """
    if encoding == "base64":
        made: list[Any] = [base64.b64encode(row.tobytes()).decode() for row in vectors.numpy().astype("<f4")]
    else:
        made = vectors.tolist()
    data = [{"object": "embedding", "index": index, "embedding": vector} for index, vector in enumerate(made)]
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return {"object": "list", "data": data, "model": model, "usage": usage}
