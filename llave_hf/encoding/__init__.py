"""Inputs to vectors: `LlaveSentenceTransformer` and `LlaveEncoder`, and the engine under both."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llave_hf.runtime.lazy_names import lazy_names

if TYPE_CHECKING:
    from .encoder import LlaveEncoder
    from .sentence_transformer import LlaveSentenceTransformer, load_encoder
else:
    __getattr__, __dir__ = lazy_names(
        __name__,
        {
            "LlaveEncoder": "encoder",
            "LlaveSentenceTransformer": "sentence_transformer",
            "load_encoder": "sentence_transformer",
        },
    )

__all__ = ["LlaveEncoder", "LlaveSentenceTransformer", "load_encoder"]
