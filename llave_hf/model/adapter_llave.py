"""A PEFT adapter of a LLaVE model, loaded by PEFT itself.

transformers' own loader goes on, with a table in the log, where weights fit nowhere. To transformers 5.17 those of a
projector that is trained whole do not, and with peft 0.19 none.

Self-contained: the file travels with a model to the Hub.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from transformers import PreTrainedModel

PREFIX = "base_model.model."  # of every name in adapter_model.safetensors


def load_adapter_weights(
    model: PreTrainedModel, adapter: str, name: str, *, trainable: bool, hub: Mapping[str, Any]
) -> None:
    """Puts an adapter's layers into a model and its weights into them.

    Args:
        model: The base model; its layers are replaced.
        adapter: A folder or a Hub id.
        name: Of the adapter in the model.
        trainable: Whether the adapter can be trained.
        hub: Keyword arguments of a download.

    Raises:
        ValueError: Weights of the adapter have no place in the model, or the adapter lacks some.
    """
    from peft import (
        PeftConfig,
        get_peft_model_state_dict,
        inject_adapter_in_model,
        load_peft_weights,
        set_peft_model_state_dict,
    )

    config = PeftConfig.from_pretrained(adapter, **hub)
    config.inference_mode = not trainable
    found = load_peft_weights(adapter, device=str(model.device), **hub)
    weights: dict[str, torch.Tensor] = {key.removeprefix(PREFIX): value for key, value in found.items()}
    inject_adapter_in_model(config, model, name)
    expected = get_peft_model_state_dict(model, adapter_name=name, save_embedding_layers=False)
    lacking = sorted(expected.keys() - weights.keys())
    left = sorted(set_peft_model_state_dict(model, weights, name).unexpected_keys)  # takes names out of `weights`
    if lacking or left:
        raise ValueError(
            f"{adapter} does not fit the model: {len(lacking)} weights that it lacks, {len(left)} that have no place "
            f"({(lacking or left)[0]}, …); name the model it was trained on as base_model_name_or_path in "
            "adapter_config.json."
        )
