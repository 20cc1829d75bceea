"""Configuration of a LLaVE embedding model. Self-contained: the file travels with a model to the Hub."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from transformers import AutoConfig, PreTrainedConfig
from transformers.models.auto import CONFIG_MAPPING

POOLING_MODES = ("last",)
VIDEO_NEWLINES = ("one_token", "frame", "grid", "no_token")
UNPAD_ROUNDINGS = ("truncate", "round")
# Arguments of `from_pretrained` that say where files come from.
HUB_ARGUMENTS = ("cache_dir", "force_download", "local_files_only", "token", "revision", "subfolder")


class LlaveConfig(PreTrainedConfig):
    """Configuration of [`LlaveModel`]: a vision-language backbone and how one vector is taken from it.

    Args:
        backbone_config (`dict` or `PreTrainedConfig`, *optional*):
            Configuration of the backbone, any vision-language model that `AutoModel` knows. Defaults to
            `llava_onevision` with that class's own defaults.
        pooling (`str`, *optional*, defaults to `"last"`):
            Which token becomes the embedding: `"last"`, the last attended one (LLaVE, section 3.1).
        normalize (`bool`, *optional*, defaults to `True`):
            Whether embeddings are L2-normalised, in float32.
        video_newline (`str`, *optional*, defaults to `"one_token"`):
            Where the newline vector stands among the visual tokens of a video: once at the end (`"one_token"`, what
            transformers does), after each frame (`"frame"`), after each row of each frame (`"grid"`, what the
            published training script writes) or nowhere (`"no_token"`). `mm_newline_position` of the research code.
        unpad_rounding (`str`, *optional*, defaults to `"truncate"`):
            How the height or width without padding is made whole: `"truncate"` is the research code's `int(x)`,
            `"round"` transformers' `int(round(x, 7))`. They differ for 64 of 4 million image sizes.
        matryoshka_dimensions (`list[int]`, *optional*):
            Lengths to which a vector may be cut and normalised again, because it was trained so (`matryoshka_dims` of
            a recipe), longest first. vLLM asks for them by this name.

    Example:

    ```python
    >>> from transformers import LlavaOnevisionConfig
    >>> from llave_hf import LlaveConfig, LlaveModel

    >>> model = LlaveModel(LlaveConfig(backbone_config=LlavaOnevisionConfig()))  # random weights
    ```
    """

    model_type = "llave"
    sub_configs = {"backbone_config": AutoConfig}
    has_no_defaults_at_init = False

    def __init__(
        self,
        backbone_config: dict[str, Any] | PreTrainedConfig | None = None,
        pooling: str = "last",
        normalize: bool = True,
        video_newline: str = "one_token",
        unpad_rounding: str = "truncate",
        matryoshka_dimensions: Sequence[int] | None = None,
        **kwargs: Any,
    ) -> None:
        _check_choice("pooling", pooling, POOLING_MODES)
        _check_choice("video_newline", video_newline, VIDEO_NEWLINES)
        _check_choice("unpad_rounding", unpad_rounding, UNPAD_ROUNDINGS)
        self.backbone_config = _to_config(backbone_config)
        self.pooling = pooling
        self.normalize = normalize
        self.video_newline = video_newline
        self.unpad_rounding = unpad_rounding
        self.matryoshka_dimensions = sorted(matryoshka_dimensions, reverse=True) if matryoshka_dimensions else None
        if kwargs.get("attn_implementation") is None:
            # "As it is": by default the base class resets the attention that a backbone in use has chosen.
            kwargs["attn_implementation"] = {"backbone_config": {}}
        super().__init__(**kwargs)

    def get_text_config(self, *args: Any, **kwargs: Any) -> PreTrainedConfig:
        """The language model's configuration: what asks for `hidden_size` or `max_position_embeddings` finds them."""
        return self.backbone_config.get_text_config(*args, **kwargs)

    @property
    def hidden_size(self) -> int:
        """Dimension D of the embeddings. DeepSpeed and sentence-transformers look for it under this name."""
        return self.get_text_config().hidden_size


def opens_as_llave(model_type: str | None) -> bool:
    """Whether a registered configuration class says that its checkpoints open as [`LlaveModel`]s."""
    return model_type in CONFIG_MAPPING and getattr(CONFIG_MAPPING[model_type], "opens_as_llave", False)


def split_hub_arguments(kwargs: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """`(arguments of the Hub, the others)`; those that only transformers' Auto classes pass on are in neither."""
    hub = {key: value for key, value in kwargs.items() if key in HUB_ARGUMENTS}
    own = {
        key: value
        for key, value in kwargs.items()
        if key not in HUB_ARGUMENTS and key != "trust_remote_code" and not key.startswith("_")
    }
    return hub, own


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name} is {value!r} in a LlaveConfig; choose one of {', '.join(map(repr, choices))}.")


def _to_config(backbone_config: dict[str, Any] | PreTrainedConfig | None) -> PreTrainedConfig:
    if isinstance(backbone_config, PreTrainedConfig):
        return backbone_config
    fields = dict(backbone_config or {})
    model_type = fields.pop("model_type", "llava_onevision")
    if model_type not in CONFIG_MAPPING:
        raise ValueError(
            f"backbone_config names the model_type {model_type!r}, which this transformers version does not know; "
            "upgrade transformers or choose a backbone such as 'llava_onevision' or 'qwen2_vl'."
        )
    return CONFIG_MAPPING[model_type].from_dict(fields)


__all__ = ["HUB_ARGUMENTS", "LlaveConfig", "opens_as_llave", "split_hub_arguments"]
