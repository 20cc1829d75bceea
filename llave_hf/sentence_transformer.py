"""LLaVE and sentence-transformers."""

from __future__ import annotations

import os
from typing import Any

import torch
from transformers import PreTrainedConfig

from .configuration_llave import LlaveConfig
from .encoding import LlaveEncoder
from .modeling_llave import LlaveModel
from .processing_llave import LlaveProcessor


def load_encoder(path: str | os.PathLike[str], *, device: str | None = None, **kwargs: Any) -> Any:
    """Whatever embeds with `encode(list)`: our own encoder for a LLaVE folder, else a `SentenceTransformer`.

    Args:
        path: A folder or a Hub id.
        device: Where the model goes; None takes the GPU if there is one.
        **kwargs: `revision`, `token`, `trust_remote_code`, ... of `from_pretrained`.
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    fields, _ = PreTrainedConfig.get_config_dict(path, **kwargs)
    if fields.get("model_type") != LlaveConfig.model_type:
        from sentence_transformers import SentenceTransformer

        return SentenceTransformer(os.fspath(path), device=device, **kwargs)
    model = LlaveModel.from_pretrained(path, **kwargs).to(device)
    return LlaveEncoder(model.eval(), LlaveProcessor.from_pretrained(path, **kwargs))
