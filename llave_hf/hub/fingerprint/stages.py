"""What a processor and a model make of one sample, stage by stage, small enough to be kept."""

from __future__ import annotations

import contextlib
import hashlib
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel

from .samples import Sample

STAGES = ("prompt", "tokens", "pixels", "visual", "vector")
MODEL_STAGES = ("visual", "vector")
KEPT = 64  # numbers of a long vector that are kept as they are, and sums over all of it beside them
_TEXT_TENSORS = ("input_ids", "attention_mask")


def prompt_text(processor: Any, sample: Sample) -> str:
    """The prompt as the folder's chat template renders it."""
    return processor.apply_chat_template(sample.conversation, tokenize=False)


def token_ids(inputs: Any) -> list[int]:
    """The attended ids of a batch of one."""
    return inputs["input_ids"][0][inputs["attention_mask"][0].bool()].tolist()


def pixel_summary(inputs: Any) -> dict[str, dict[str, Any]]:
    """Of each visual tensor of a batch its shape, mean, standard deviation and the hash of its bytes."""
    return {name: _tensor_summary(inputs[name]) for name in sorted(inputs) if name not in _TEXT_TENSORS}


def _tensor_summary(tensor: torch.Tensor) -> dict[str, Any]:
    values = np.ascontiguousarray(tensor.cpu().numpy())
    little_endian = values.astype(values.dtype.newbyteorder("<"), copy=False)
    return {
        "shape": list(values.shape),
        "mean": _rounded(values.mean(dtype=np.float64)),
        "std": _rounded(values.std(dtype=np.float64)),
        "sha256": hashlib.sha256(little_endian.tobytes()).hexdigest(),
    }


def model_stages(model: PreTrainedModel, inputs: Any) -> dict[str, list[float]]:
    """`vector`, and `visual` where the sample has pictures: each as [`summary`] keeps it.

    Args:
        model: A [`LlaveModel`] in evaluation mode. Autocast that accelerate wrapped around it is left aside.
        inputs: The processor's output for one sample.
    """
    with torch.inference_mode(), full_precision(model.device), _recorded_visual_rows(model) as rows:
        # Of the class, not of the instance: accelerate puts its autocast on the instance.
        output = type(model).forward(model, **inputs.to(model.device))
    found = {"vector": summary(output.embeddings[0])}
    if rows:
        found["visual"] = summary(torch.cat(rows).double().mean(dim=0))
    return found


def summary(vector: Any) -> list[float]:
    """A vector of D numbers to 7 significant digits; for D > 256 its first 64 and 64 sums over all, signs at random.

    The sums are divided by the root of D, which gives them the scale of the numbers themselves.
    """
    values = torch.as_tensor(vector).double().cpu().numpy()
    if len(values) > 4 * KEPT:
        # RandomState's stream is frozen for all versions of NumPy; default_rng's is not.
        signs = np.random.RandomState(0).randint(0, 2, (len(values), KEPT)) * 2.0 - 1
        values = np.concatenate((values[:KEPT], values @ signs / np.sqrt(len(values))))
    return [_rounded(value) for value in values]


def visual_module(model: PreTrainedModel) -> nn.Module | None:
    """The module whose output stands in the place of the visual tokens, or None for a model without vision."""
    for name in ("multi_modal_projector", "visual"):
        if (module := getattr(model.backbone, name, None)) is not None:
            return module
    return None


@contextlib.contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """No autocast on the device, and float32 products without TF32 or bfloat16 inside, whatever training left on."""
    backends: Any = torch.backends
    switches = (backends.cuda.matmul, backends.cudnn.conv, backends.mkldnn.matmul, backends.mkldnn.conv)
    before = [switch.fp32_precision for switch in switches]
    try:
        for switch in switches:
            switch.fp32_precision = "ieee"
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        for switch, precision in zip(switches, before, strict=True):
            switch.fp32_precision = precision


@contextlib.contextmanager
def _recorded_visual_rows(model: PreTrainedModel) -> Iterator[list[torch.Tensor]]:
    """Collects the rows `(tokens, D)` that the vision tower and projector give while the context lasts."""
    rows: list[torch.Tensor] = []
    module = visual_module(model)
    if module is None:
        yield rows
        return
    thread = threading.get_ident()  # another one that runs the model meanwhile has pictures of its own

    def record(_module: nn.Module, _inputs: Any, output: Any) -> None:
        if threading.get_ident() == thread:
            rows.append(_rows_of(output))

    handle = module.register_forward_hook(record)
    try:
        yield rows
    finally:
        handle.remove()


def _rows_of(output: Any) -> torch.Tensor:
    """Qwen-VL's towers give an output object whose `pooler_output` is what the projector gives."""
    tensor = output if isinstance(output, torch.Tensor) else output.pooler_output
    return tensor.flatten(0, -2)


def _rounded(value: float) -> float:
    return float(f"{value:.7g}")
