"""A configuration that names the tokenizer's special tokens."""

from __future__ import annotations

from llave_hf.model.modeling_llave import LlaveModel
from llave_hf.model.processing_llave import LlaveProcessor


def align_special_tokens(model: LlaveModel, processor: LlaveProcessor) -> None:
    """Writes into the text model's configuration what the tokenizer ends, begins and pads with.

    Trainer does so, too, and warns on every rank; no embedding depends on it.
    """
    config = model.config.get_text_config()
    for name in ("eos_token_id", "bos_token_id", "pad_token_id"):
        wanted, given = getattr(processor.tokenizer, name), getattr(config, name, None)
        several = isinstance(given, (list, tuple)) and wanted in given
        if wanted is not None and wanted != given and not several:
            setattr(config, name, wanted)
