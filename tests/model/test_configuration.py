from __future__ import annotations

from pathlib import Path

import pytest
from transformers import AutoConfig, LlavaOnevisionConfig

from llave_hf import LlaveConfig


def test_round_trip_keeps_every_field(tmp_path: Path) -> None:
    backbone = LlavaOnevisionConfig(text_config={"model_type": "qwen2", "hidden_size": 24, "num_hidden_layers": 2})
    config = LlaveConfig(backbone, normalize=False, video_newline="grid", unpad_rounding="round")
    config.save_pretrained(tmp_path)
    loaded = AutoConfig.from_pretrained(tmp_path)
    assert type(loaded) is LlaveConfig
    assert (loaded.normalize, loaded.video_newline, loaded.unpad_rounding) == (False, "grid", "round")
    assert loaded.backbone_config.to_dict() == backbone.to_dict()
    assert loaded.hidden_size == loaded.get_text_config().hidden_size == 24


def test_defaults_to_a_llava_onevision_backbone() -> None:
    config = LlaveConfig()
    assert config.backbone_config.model_type == "llava_onevision"
    assert (config.pooling, config.normalize, config.video_newline) == ("last", True, "one_token")


def test_takes_a_dictionary_as_backbone() -> None:
    config = LlaveConfig(backbone_config={"model_type": "llava_onevision", "image_token_index": 7})
    assert config.backbone_config.image_token_id == 7


@pytest.mark.parametrize("field", ["pooling", "video_newline", "unpad_rounding"])
def test_unknown_choices_are_refused_with_the_known_ones(field: str) -> None:
    with pytest.raises(ValueError, match=f"{field} is 'mean'.*choose one of '"):
        LlaveConfig(**{field: "mean"})


def test_unknown_backbone_is_refused() -> None:
    with pytest.raises(ValueError, match=r"model_type 'nonsense'.*upgrade transformers"):
        LlaveConfig(backbone_config={"model_type": "nonsense"})


def test_the_backbones_choice_of_attention_is_kept_unless_one_is_given() -> None:
    # Reset to None, transformers would run the backbone without its causal mask.
    backbone = LlavaOnevisionConfig(attn_implementation={"text_config": "sdpa", "vision_config": "eager"})
    LlaveConfig(backbone)
    assert backbone.text_config._attn_implementation == "sdpa"
    assert backbone.vision_config._attn_implementation == "eager"
    LlaveConfig(backbone, attn_implementation="eager")
    assert backbone.text_config._attn_implementation == "eager"
