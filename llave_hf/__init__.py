"""llave_hf: LLaVE embedding models, native to Hugging Face.

Once llave_hf is imported, `AutoConfig`, `AutoModel`, `AutoProcessor` and `SentenceTransformer` open a LLaVE folder
without `trust_remote_code`, whether transformers was imported before or comes later. Everything is imported when it is
first used.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

from .lazy_names import lazy_names
from .registration import register_when_imported

if TYPE_CHECKING:
    from .configuration_llave import LlaveConfig
    from .losses.contrastive import HardnessWeightedContrastiveLoss
    from .modeling_llave import LlaveModel, LlaveModelOutput
    from .processing_llave import LlaveProcessor
    from .sentence_transformer import LlaveSentenceTransformer
    from .training.arguments import LlaveTrainingArguments
    from .training.trainer import LlaveTrainer
else:
    __getattr__, __dir__ = lazy_names(
        __name__,
        {
            "HardnessWeightedContrastiveLoss": "losses.contrastive",
            "LlaveConfig": "configuration_llave",
            "LlaveModel": "modeling_llave",
            "LlaveModelOutput": "modeling_llave",
            "LlaveProcessor": "processing_llave",
            "LlaveSentenceTransformer": "sentence_transformer",
            "LlaveTrainer": "training.trainer",
            "LlaveTrainingArguments": "training.arguments",
        },
    )

try:
    __version__ = version("llave-hf")
except PackageNotFoundError:  # run from a source tree that is not installed
    __version__ = "0.0.0"

register_when_imported()

__all__ = [
    "HardnessWeightedContrastiveLoss",
    "LlaveConfig",
    "LlaveModel",
    "LlaveModelOutput",
    "LlaveProcessor",
    "LlaveSentenceTransformer",
    "LlaveTrainer",
    "LlaveTrainingArguments",
]
