"""LLaVE: one vector for a text, images, a video, or any of them with a text (arXiv 2503.04812).

Self-contained: the file travels with a model to the Hub.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import ModelOutput
from transformers.utils import find_adapter_config_file
from transformers.utils.loading_report import LoadStateDictInfo

from .adapter_llave import load_adapter_weights
from .backbones_llave import backbone_of
from .configuration_llave import HUB_ARGUMENTS, LlaveConfig, opens_as_llave
from .sentence_transformer_layout_llave import write_sentence_transformer_layout


@dataclass
class LlaveModelOutput(ModelOutput):
    """Output of [`LlaveModel`].

    Args:
        embeddings (`torch.FloatTensor` of shape `(batch_size, hidden_size)`):
            One vector a row, L2-normalised in float32 (unless the configuration says `normalize=False`).
        last_hidden_state (`torch.FloatTensor` of shape `(batch_size, sequence_length, hidden_size)`):
            What the language model's last layer gives for each token; None for `micro_batches`.
    """

    embeddings: torch.Tensor | None = None
    last_hidden_state: torch.Tensor | None = None


class LlaveModel(PreTrainedModel):
    """A vision-language backbone without its language-model head, pooled to one vector a row.

    The embedding is the hidden state of the last attended token, under either padding side, and does not depend on
    what else is in the batch.
    """

    config_class = LlaveConfig
    base_model_prefix = "backbone"
    main_input_name = "input_ids"
    input_modalities = ("image", "video", "text")
    supports_gradient_checkpointing = True
    _keys_to_ignore_on_load_unexpected = [r"lm_head"]  # never built
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True

    def __init__(self, config: LlaveConfig, backbone: PreTrainedModel | None = None) -> None:
        super().__init__(config)
        self.backbone = AutoModel.from_config(config.backbone_config) if backbone is None else backbone
        self.post_init()
        # FSDP refuses a class that is not there, and transformers names all that a tower of that kind may have.
        present = {type(module).__name__ for module in self.backbone.modules()}
        self._no_split_modules = sorted(present & set(self.backbone._no_split_modules or []))

    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        micro_batches: Sequence[Mapping[str, Any]] | None = None,
        return_dict: bool | None = None,
        **inputs: Any,
    ) -> LlaveModelOutput | tuple[torch.Tensor, ...]:
        """Embeds what a [`LlaveProcessor`] returned.

        Args:
            input_ids: `(B, T)` token ids, visual placeholders in place.
            attention_mask: `(B, T)`, 1 where a token counts; padding may stand on either side.
            micro_batches: Several outputs of the processor, embedded in turn within this one call, so that a
                distributed wrapper sees one forward and one backward for all of them. Excludes the other inputs.
            return_dict: False gives a tuple.
            **inputs: The processor's tensors for images and videos.

        Returns:
            [`LlaveModelOutput`] with `embeddings` `(B, D)`; for `micro_batches` `(sum of their B, D)`, in order.
        """
        if micro_batches is not None:
            if input_ids is not None or inputs:
                raise ValueError("LlaveModel got both micro_batches and other inputs; pass one or the other.")
            # Not self(...): a wrapper around this forward (autocast, FSDP) would be entered again within itself.
            output = LlaveModelOutput(embeddings=torch.cat([self._embed(**batch)[0] for batch in micro_batches]))
        else:
            output = LlaveModelOutput(*self._embed(input_ids, attention_mask, **inputs))
        return output.to_tuple() if return_dict is False else output

    def _embed(
        self, input_ids: torch.Tensor | None = None, attention_mask: torch.Tensor | None = None, **inputs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Embeddings `(B, D)` and the hidden states `(B, T, D)` that they are taken from."""
        if input_ids is None:
            raise ValueError("LlaveModel got no input_ids; pass a LlaveProcessor's output as model(**inputs).")
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        backbone = backbone_of(self.config.backbone_config.model_type)
        hidden = backbone.hidden_states(self, input_ids, attention_mask, inputs)  # (B, T, D)
        return self.pool(hidden, attention_mask), hidden

    def pool(self, hidden_states: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """The last attended token of each row, `(B, T, D)` -> `(B, D)`, normalised in float32 (or float64)."""
        last = attention_mask.shape[1] - 1 - attention_mask.flip(1).to(torch.int).argmax(1)  # (B,)
        rows = torch.arange(hidden_states.shape[0], device=hidden_states.device)
        pooled = hidden_states[rows, last]
        pooled = pooled if pooled.dtype == torch.float64 else pooled.float()
        return F.normalize(pooled, dim=-1) if self.config.normalize else pooled

    def get_input_embeddings(self) -> nn.Module:
        return self.backbone.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.backbone.set_input_embeddings(value)

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | os.PathLike[str] | None, *model_args: Any, **kwargs: Any
    ) -> LlaveModel:
        """Opens a LLaVE model, a published LLaVE checkpoint, a PEFT adapter of one, or a plain backbone as one
        ([`from_backbone`]).

        Raises:
            ValueError: The folder holds pickled weights and no safetensors, or its model is no possible backbone.
        """
        _refuse_pickles(pretrained_model_name_or_path)
        kwargs["use_safetensors"] = True
        config = kwargs.get("config")
        if config is None and pretrained_model_name_or_path is not None:
            hub = {key: kwargs[key] for key in _HUB_KWARGS if key in kwargs}
            fields, _ = PreTrainedConfig.get_config_dict(pretrained_model_name_or_path, **hub)
            is_adapter = not fields and find_adapter_config_file(pretrained_model_name_or_path, **hub) is not None
            if is_adapter or opens_as_llave(fields.get("model_type")):
                return AutoModel.from_pretrained(pretrained_model_name_or_path, **kwargs)
            if fields.get("model_type") != LlaveConfig.model_type:
                return cls.from_backbone(pretrained_model_name_or_path, **kwargs)
        return super().from_pretrained(pretrained_model_name_or_path, *model_args, **kwargs)

    def load_adapter(
        self, peft_model_id: str | None = None, adapter_name: str | None = None, **kwargs: Any
    ) -> LoadStateDictInfo:
        """As transformers'; an adapter's folder or Hub id is loaded by PEFT itself, and has to fit.

        Raises:
            ValueError: Weights of the adapter have no place in the model, or the adapter lacks some.
        """
        settings = {key: kwargs.get(key) for key in ("peft_config", "adapter_state_dict", "hotswap")}
        if peft_model_id is None or any(value not in (None, False, "auto") for value in settings.values()):
            return super().load_adapter(peft_model_id, adapter_name, **kwargs)
        loading = kwargs.get("load_config")  # of from_pretrained; the revision in it is the base model's
        download = {**loading.download_kwargs, "revision": None} if loading else {}
        asked = {**download, **(kwargs.get("adapter_kwargs") or {}), **kwargs}
        hub = {key: asked[key] for key in HUB_ARGUMENTS if asked.get(key)}
        trainable = bool(kwargs.get("is_trainable"))
        load_adapter_weights(self, peft_model_id, adapter_name or "default", trainable=trainable, hub=hub)
        self._hf_peft_config_loaded = True  # transformers saves the adapter by it
        if not trainable:
            self.eval()
        return LoadStateDictInfo(**{field.name: set() for field in fields(LoadStateDictInfo)})

    @classmethod
    def from_backbone(cls, pretrained_model_name_or_path: str | os.PathLike[str], **kwargs: Any) -> LlaveModel:
        """Makes an embedding model out of a vision-language checkpoint, base or `...ForConditionalGeneration`.

        Args:
            pretrained_model_name_or_path: A folder or a Hub id.
            **kwargs: Fields of [`LlaveConfig`] (`pooling`, `normalize`, ...), and what
                `AutoModel.from_pretrained` takes.
        """
        own = {
            key: kwargs.pop(key)
            for key in ("pooling", "normalize", "video_newline", "unpad_rounding")
            if key in kwargs
        }
        hub = {key: kwargs[key] for key in _HUB_KWARGS if key in kwargs}
        backbone_config = AutoConfig.from_pretrained(pretrained_model_name_or_path, **hub)
        backbone_of(backbone_config.model_type, str(pretrained_model_name_or_path))
        _refuse_pickles(pretrained_model_name_or_path)
        kwargs["use_safetensors"] = True
        backbone = AutoModel.from_pretrained(pretrained_model_name_or_path, config=backbone_config, **kwargs)
        config = LlaveConfig(backbone_config=backbone.config, name_or_path=str(pretrained_model_name_or_path), **own)
        return cls(config, backbone=backbone)

    def save_pretrained(self, save_directory: str | os.PathLike[str], *args: Any, **kwargs: Any) -> None:
        """Saves a folder that `AutoModel` and, with the processor beside it, `SentenceTransformer` open.

        Writes this class's own parameter names (`save_original_format=False`): with the names of a converted
        checkpoint, Trainer would load none of them on resume and go on from the wrong weights.
        """
        kwargs.setdefault("save_original_format", False)
        kind = type(self)
        try:
            # FSDP2 gives a model a class of its own, and transformers would save torch's file, where that stands.
            self.__class__ = _own_class(kind)
            super().save_pretrained(save_directory, *args, **kwargs)
        finally:
            self.__class__ = kind
        if kwargs.get("is_main_process", True):
            write_sentence_transformer_layout(save_directory, self.config.hidden_size, self.config.normalize)


def _own_class(kind: type) -> type:
    """The class of a model before FSDP2 put its own methods on it."""
    return next(one for one in kind.__mro__ if not any(base.__name__ == "FSDPModule" for base in one.__mro__))


_PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt")
_HUB_KWARGS = (*HUB_ARGUMENTS, "trust_remote_code")


def _refuse_pickles(folder: str | os.PathLike[str] | None) -> None:
    """A pickle can run code when it is read, so weights are read from safetensors only."""
    if folder is None or not Path(folder).is_dir():
        return
    names = sorted(path.name for path in Path(folder).iterdir())
    pickles = [name for name in names if name.endswith(_PICKLE_SUFFIXES)]
    if pickles and not any(name.endswith(".safetensors") for name in names):
        raise ValueError(
            f"{folder} holds weights only as pickles ({', '.join(pickles)}), which may run code when they are read; "
            "convert them to model.safetensors."
        )


__all__ = ["LlaveModel", "LlaveModelOutput"]
