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
# `unpad_inputs` is off because it asks the processor for rows without padding, which it does not make.
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
    "unpad_inputs": False,
}

# Instructions of MMEB's meta-tasks, for `encode(..., prompt_name=...)`. A prompt stands after the pictures and before
# the user's text, as in MMEB's rows; these end in a newline, which the user's text must bring. The answers to
# classification and questions are embedded as they are. "query" and "document" are what `encode_query` and
# `encode_document` take when no name is given: empty, so that they agree with `encode` until the user sets them.
PROMPTS = {
    "query": "",
    "document": "",
    "classification_query": "Represent the given image for classification\n",
    "vqa_query": "Represent the given image with the following question: ",
    "retrieval_query": "Find an image that matches the given caption: ",
    "caption_query": "Find an image caption describing the given image.\n",
    "retrieval_document": "Represent the given image.\n",
    "grounding_query": "Select the portion of the image that follows the language expressions. ",
    "grounding_document": "Represent the given cropped image of the object.\n",
}

_SETTINGS = {
    "model_type": "SentenceTransformer",
    "prompts": PROMPTS,
    "default_prompt_name": None,
    "similarity_fn_name": "cosine",
}


def write_sentence_transformer_layout(
    folder: str | os.PathLike[str],
    dimension: int,
    normalize: bool,
    processing_kwargs: dict[str, Any] | None = None,
) -> None:
    """Writes modules.json, sentence_bert_config.json, 1_Pooling, 2_Normalize and config_sentence_transformers.json.

    The last holds what a user may have chosen (prompts, similarity, dimensions); where it is there, it stays.

    Args:
        folder: A folder that holds, or will hold, the model's and the processor's files.
        dimension: D, the embedding's length.
        normalize: Whether a Normalize module follows the pooling.
        processing_kwargs: sentence-transformers' arguments for the processor; None is for a [`LlaveProcessor`].
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
    chosen = {"processing_kwargs": processing_kwargs} if processing_kwargs else {}
    _write(root / "sentence_bert_config.json", {**_TRANSFORMER, **chosen})
    _write(
        root / "1_Pooling" / "config.json",
        {"embedding_dimension": dimension, "pooling_mode": "lasttoken", "include_prompt": True},
    )
    if normalize:
        _write(root / "2_Normalize" / "config.json", {})
    settings = root / "config_sentence_transformers.json"
    if not _is_settings(settings):
        _write(settings, _SETTINGS)


def _is_settings(path: Path) -> bool:
    """Whether a SentenceTransformer's settings are there: it saves its user's prompts before it saves the model."""
    return path.exists() and json.loads(path.read_text(encoding="utf-8")).get("model_type") == "SentenceTransformer"


def _write(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
