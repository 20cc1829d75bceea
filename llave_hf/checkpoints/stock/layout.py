"""The modules of sentence-transformers, in the spellings of its new and its old releases.

vLLM before the summer of 2026, text-embeddings-inference and llama.cpp know the old ones alone; sentence-transformers
6 reads both.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from llave_hf.model.sentence_transformer_layout_llave import write_sentence_transformer_layout

_OLD_TYPES = {
    "": "sentence_transformers.models.Transformer",
    "1_Pooling": "sentence_transformers.models.Pooling",
    "2_Normalize": "sentence_transformers.models.Normalize",
}
_OLD_FLAGS = {
    f"pooling_mode_{mode}": mode == "lasttoken"
    for mode in (
        "cls_token",
        "mean_tokens",
        "max_tokens",
        "mean_sqrt_len_tokens",
        "weightedmean_tokens",
        "lasttoken",
    )
}


def write_stock_layout(folder: Path, dimension: int, normalize: bool) -> None:
    """Writes modules.json, sentence_bert_config.json, 1_Pooling, 2_Normalize and config_sentence_transformers.json.

    Args:
        folder: An exported folder.
        dimension: D, the embedding's length.
        normalize: Whether vectors are normalised.
    """
    # Texts go through the chat template as a whole, so that a literal special token must be made harmless first.
    write_sentence_transformer_layout(
        folder,
        dimension,
        normalize,
        processing_kwargs={"text": {"truncation": False}, "chat_template": {"sanitize_control_tokens": True}},
    )
    modules = json.loads((folder / "modules.json").read_text(encoding="utf-8"))
    _write(folder / "modules.json", [{**module, "type": _OLD_TYPES[module["path"]]} for module in modules])
    # Some readers take the first flag that is true, so those of the pooling stand before `include_prompt`.
    pooling = {
        "embedding_dimension": dimension,
        **_OLD_FLAGS,
        "pooling_mode": "lasttoken",
        "include_prompt": True,
    }
    _write(folder / "1_Pooling" / "config.json", pooling)


def _write(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
