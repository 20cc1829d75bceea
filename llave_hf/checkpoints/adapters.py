"""PEFT adapters: opened by transformers itself, merged into a model folder here."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModel, AutoProcessor

from llave_hf.errors import UserError
from llave_hf.hub.fingerprint.fingerprint import make_fingerprint, save_fingerprint
from llave_hf.hub.fingerprint.samples import affordable
from llave_hf.hub.fingerprint.stages import summary
from llave_hf.model.modeling_llave import LlaveModel
from llave_hf.model.processing_llave import LlaveProcessor
from llave_hf.runtime.opening import cast, suit_processor
from llave_hf.runtime.places import check_model, find_file
from llave_hf.runtime.progress import forward_bar

from .initialisation import match_processor, refuse_used_folder


def merge_adapter(adapter: str | os.PathLike[str], folder: str | os.PathLike[str], *, thorough: bool = False) -> str:
    """Writes the whole model that a base model and its adapter are together.

    Args:
        adapter: A folder or Hub id with adapter_config.json, which names the base model.
        folder: Must not exist or be empty.
        thorough: Put all samples through a large model, where it is otherwise given a few.

    Returns:
        One line for the screen.

    Raises:
        UserError: `peft` is not installed, the adapter or its base is none of ours, or `folder` is in use.
    """
    target = Path(folder)
    if Path(adapter, "config.json").is_file() and not Path(adapter, "adapter_config.json").is_file():
        raise UserError(
            f"{adapter} is a whole model and holds no adapter_config.json: one adapter is merged into its base, or "
            "two or more models into a new one (llave merge A B OUT)."
        )
    refuse_used_folder(target)
    check_model(adapter, ("adapter_config.json",))
    base, model, processor = open_base(adapter)
    dtype = model.dtype
    cast(model, torch.float32)
    wrapped = with_adapter(model, adapter)
    samples = affordable(model.num_parameters(), "cpu", thorough=thorough)
    inputs = [processor(**sample.columns) for sample in samples]
    with torch.inference_mode(), forward_bar(model, inputs, "With the adapter"):
        before = [summary(wrapped(**given).embeddings[0]) for given in inputs]
    whole = cast_parameters(wrapped.merge_and_unload(), dtype)
    whole.save_pretrained(target)
    processor.save_pretrained(target)
    suit_processor(whole, base, keep=False)
    fingerprint = make_fingerprint(whole, processor, thorough=thorough)
    save_fingerprint(target, fingerprint)
    after = [fingerprint["samples"][sample.name]["vector"] for sample in samples]
    difference = float(np.abs(np.array(after) - np.array(before)).max())
    return f"Written: {target}, {base} with {adapter} merged in; vectors differ by at most {difference:.1e}"


def open_base(adapter: str | os.PathLike[str]) -> tuple[str, LlaveModel, LlaveProcessor]:
    """The name of the base model that an adapter was trained on, the model, and the processor they go with.

    Raises:
        UserError: `peft` is not installed, there is no adapter, or its base is not named or cannot be opened.
    """
    try:
        config = _peft().PeftConfig.from_pretrained(os.fspath(adapter))
    except (ValueError, OSError) as error:
        raise UserError(f"{adapter} holds no adapter_config.json; name the folder of a PEFT adapter.") from error
    base = config.base_model_name_or_path
    if not base:
        raise UserError(f"adapter_config.json of {adapter} names no base_model_name_or_path; write it there.")
    try:
        revision = {"revision": config.revision} if config.revision else {}
        model = AutoModel.from_pretrained(base, **revision)
    except OSError as error:
        raise UserError(
            f"the base model {base} of {adapter} cannot be opened ({error}); write where it is as "
            "base_model_name_or_path in adapter_config.json."
        ) from error
    if not isinstance(model, LlaveModel):
        model = LlaveModel.from_pretrained(base, **revision)
    processor = _processor(adapter, base, revision)
    match_processor(model, processor)
    return base, model, processor


def merged(model: LlaveModel, adapter: str | os.PathLike[str]) -> LlaveModel:
    """A model with an adapter merged into its weights, in place and in float32; not quantised.

    Raises:
        UserError: `peft` is not installed.
    """
    return with_adapter(model, adapter).merge_and_unload()


def cast_parameters(model: LlaveModel, dtype: torch.dtype) -> LlaveModel:
    """Casts a model's parameters in place. Not its buffers: rotary frequencies are float32 in every model."""
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)
    return model


def with_adapter(model: LlaveModel, adapter: str | os.PathLike[str], *, trainable: bool = False) -> Any:
    """The `peft.PeftModel` of a model, in float32 and evaluation mode, and an adapter, which may be trainable.

    Raises:
        UserError: `peft` is not installed.
    """
    return _peft().PeftModel.from_pretrained(model.float(), os.fspath(adapter), is_trainable=trainable).eval()


def _peft() -> Any:
    try:
        import peft
    except ImportError as error:
        raise UserError("adapters need peft; pip install 'llave-hf[peft]'.") from error
    return peft


def _processor(adapter: str | os.PathLike[str], base: str, revision: dict[str, str]) -> LlaveProcessor:
    """The adapter's own where it was saved with one, else its base model's."""
    if find_file(adapter, "processor_config.json") is not None:
        found = AutoProcessor.from_pretrained(adapter)
    else:
        found = AutoProcessor.from_pretrained(base, **revision)
    return found if isinstance(found, LlaveProcessor) else LlaveProcessor.from_pretrained(base, **revision)
