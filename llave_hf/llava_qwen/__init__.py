"""Published LLaVE checkpoints, in the layout of the research code (`model_type: llava_qwen`).

`import llave_hf` registers the layout, so that `AutoModel.from_pretrained` and `AutoProcessor.from_pretrained` open
such a folder or Hub repository as a [`LlaveModel`] and a [`LlaveProcessor`].
"""

from __future__ import annotations

from transformers import AutoConfig, AutoModel, AutoProcessor

from .configuration import LlavaQwenConfig
from .modeling import LlavaQwenModel
from .processing import LlavaQwenProcessor


def register() -> None:
    """Makes the layout known to transformers' Auto classes."""
    AutoConfig.register(LlavaQwenConfig.model_type, LlavaQwenConfig, exist_ok=True)
    AutoModel.register(LlavaQwenConfig, LlavaQwenModel, exist_ok=True)
    AutoProcessor.register(LlavaQwenConfig, LlavaQwenProcessor, exist_ok=True)


__all__ = ["LlavaQwenConfig", "LlavaQwenModel", "LlavaQwenProcessor", "register"]
