"""llave_hf: LLaVE embedding models, native to Hugging Face.

Once llave_hf is imported, `AutoConfig`, `AutoModel`, `AutoProcessor` and `SentenceTransformer` open a LLaVE folder
without `trust_remote_code`, whether transformers was imported before or comes later. Everything is imported when it is
first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from llave_hf.runtime.lazy_names import lazy_names
from llave_hf.runtime.registration import register_when_imported
from llave_hf.runtime.version import __version__ as __version__

if TYPE_CHECKING:
    from llave_hf.corpus.embedder import LlaveEmbedder
    from llave_hf.encoding.sentence_transformer import LlaveSentenceTransformer
    from llave_hf.losses.contrastive import HardnessWeightedContrastiveLoss
    from llave_hf.model.configuration_llave import LlaveConfig
    from llave_hf.model.modeling_llave import LlaveModel, LlaveModelOutput
    from llave_hf.model.processing_llave import LlaveProcessor
    from llave_hf.training.recipe.arguments import LlaveTrainingArguments
    from llave_hf.training.trainer import LlaveTrainer
else:
    __getattr__, __dir__ = lazy_names(
        __name__,
        {
            "HardnessWeightedContrastiveLoss": "losses.contrastive",
            "LlaveConfig": "model.configuration_llave",
            "LlaveEmbedder": "corpus.embedder",
            "LlaveModel": "model.modeling_llave",
            "LlaveModelOutput": "model.modeling_llave",
            "LlaveProcessor": "model.processing_llave",
            "LlaveSentenceTransformer": "encoding.sentence_transformer",
            "LlaveTrainer": "training.trainer",
            "LlaveTrainingArguments": "training.recipe.arguments",
        },
    )

register_when_imported()

__all__ = [
    "HardnessWeightedContrastiveLoss",
    "LlaveConfig",
    "LlaveEmbedder",
    "LlaveModel",
    "LlaveModelOutput",
    "LlaveProcessor",
    "LlaveSentenceTransformer",
    "LlaveTrainer",
    "LlaveTrainingArguments",
]
