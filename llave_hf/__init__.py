"""llave_hf: LLaVE embedding models, native to Hugging Face.

`import llave_hf` registers [`LlaveConfig`], [`LlaveModel`] and [`LlaveProcessor`] with transformers' Auto classes, so
that `AutoModel`, `AutoProcessor` and `SentenceTransformer` open a LLaVE folder without `trust_remote_code`. Everything
else is imported when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from transformers import AutoConfig, AutoModel, AutoProcessor

from . import llava_qwen
from .configuration_llave import LlaveConfig
from .modeling_llave import LlaveModel, LlaveModelOutput
from .processing_llave import LlaveProcessor

if TYPE_CHECKING:
    from .losses.contrastive import HardnessWeightedContrastiveLoss
    from .sentence_transformer import LlaveSentenceTransformer
    from .training.arguments import LlaveTrainingArguments
    from .training.trainer import LlaveTrainer

try:
    __version__ = version("llave-hf")
except PackageNotFoundError:  # run from a source tree that is not installed
    __version__ = "0.0.0"

_LAZY = {
    "HardnessWeightedContrastiveLoss": "losses.contrastive",
    "LlaveSentenceTransformer": "sentence_transformer",
    "LlaveTrainer": "training.trainer",
    "LlaveTrainingArguments": "training.arguments",
}

AutoConfig.register(LlaveConfig.model_type, LlaveConfig, exist_ok=True)
AutoModel.register(LlaveConfig, LlaveModel, exist_ok=True)
AutoProcessor.register(LlaveConfig, LlaveProcessor, exist_ok=True)
llava_qwen.register()
# A saved folder carries these classes' files, for `trust_remote_code=True` where llave_hf is not installed.
LlaveConfig.register_for_auto_class()
LlaveModel.register_for_auto_class("AutoModel")
LlaveProcessor.register_for_auto_class("AutoProcessor")


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(f".{_LAZY[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_LAZY])


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
