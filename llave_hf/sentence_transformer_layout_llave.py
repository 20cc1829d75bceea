"""The files by which sentence-transformers opens a LLaVE folder with its own modules and no custom code.

Self-contained: the file travels with a model to the Hub.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

_FORWARD = {"method": "forward", "method_output_name": "last_hidden_state"}

# Every input goes through the processor's chat template, so that texts, pictures and videos may be mixed in one
# list. `truncation` is off because sentence-transformers would cut the pooled token; the processor cuts user text.
_TRANSFORMER = {
    "transformer_task": "feature-extraction",
    "modality_config": {
        "text": _FORWARD,
        "image": _FORWARD,
        "video": _FORWARD,
        "message": {**_FORWARD, "format": "structured"},
    },
    "module_output_name": "token_embeddings",
    "processing_kwargs": {"text": {"truncation": False}},
}


def write_sentence_transformer_layout(folder: str | os.PathLike[str], dimension: int, normalize: bool) -> None:
    """Writes modules.json, sentence_bert_config.json, 1_Pooling, 2_Normalize and config_sentence_transformers.json.

    Args:
        folder: A folder that holds, or will hold, the model's and the processor's files.
        dimension: D, the embedding's length.
        normalize: Whether a Normalize module follows the pooling.
    """
    root = Path(folder)
    modules = [
        ("", "sentence_transformers.base.modules.transformer.Transformer"),
        ("1_Pooling", "sentence_transformers.sentence_transformer.modules.pooling.Pooling"),
    ]
    if normalize:
        modules.append(("2_Normalize", "sentence_transformers.base.modules.normalize.Normalize"))
    _write(
        root / "modules.json",
        [{"idx": i, "name": str(i), "path": path, "type": kind} for i, (path, kind) in enumerate(modules)],
    )
    _write(root / "sentence_bert_config.json", _TRANSFORMER)
    _write(
        root / "1_Pooling" / "config.json",
        {"embedding_dimension": dimension, "pooling_mode": "lasttoken", "include_prompt": True},
    )
    if normalize:
        _write(root / "2_Normalize" / "config.json", {})
    _write(
        root / "config_sentence_transformers.json",
        {
            "model_type": "SentenceTransformer",
            "prompts": {},
            "default_prompt_name": None,
            "similarity_fn_name": "cosine",
        },
    )


def _write(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
