"""Settings of what is trained, checked by themselves: no model, no files."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from llave_hf.training.recipe.quantization import QuantizationSettings, check_quantization
from llave_hf.training.recipe.tuning import check_tuning, frozen_parts


def tuning(**changes: Any) -> Any:
    given = {
        "freeze": [],
        "lora": None,
        "learning_rates": None,
        "master_weights": "float32",
        "checkpoint_parts": None,
        "gradient_checkpointing": False,
        "gradient_checkpointing_kwargs": None,
    }
    return SimpleNamespace(**given | changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"freeze": ["tower"]}, "freeze names tower"),
        ({"freeze": ["language_model"], "lora": {"r": 2}}, "language_model stands in freeze and in lora.parts"),
        ({"learning_rates": {"projector": 1e-3}, "freeze": ["projector"]}, "projector a rate, but it is frozen"),
        ({"checkpoint_parts": ["vision_tower"]}, "without gradient_checkpointing: true"),
        ({"master_weights": "float16"}, "choose float32 or bfloat16"),
    ],
    ids=str,
)
def test_what_contradicts_itself_is_named(changes: dict[str, Any], message: str) -> None:
    check_tuning(tuning())
    with pytest.raises(ValueError, match=message):
        check_tuning(tuning(**changes))


def test_an_adapter_freezes_the_stacks_that_get_none() -> None:
    assert frozen_parts([], {"r": 2}) == {"vision_tower"}
    assert frozen_parts(["projector"], {"r": 2, "parts": ["vision_tower"]}) == {"projector", "language_model"}


def test_quantization_needs_an_adapter_and_bf16() -> None:
    whole: Any = SimpleNamespace(lora=None, bf16=True)
    check_quantization(None, whole)
    with pytest.raises(ValueError, match="add lora"):
        check_quantization({}, whole)
    with pytest.raises(ValueError, match="needs bf16: true"):
        check_quantization({}, SimpleNamespace(lora={"r": 2}, bf16=False))  # type: ignore[arg-type]
    check_quantization({}, SimpleNamespace(lora={"r": 2}, bf16=True))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"quantization\.type is 'int4'; choose nf4, fp4"):
        QuantizationSettings.of({"type": "int4"})
