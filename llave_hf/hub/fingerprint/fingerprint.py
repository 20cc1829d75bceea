"""`fingerprint.json`: what a model made of fixed samples when it was saved, which `llave verify` recomputes elsewhere.

Nothing in the file depends on the day it was written.
"""

from __future__ import annotations

import json
import math
import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModel, AutoProcessor, PreTrainedModel

from llave_hf.errors import UserError
from llave_hf.runtime.opening import cast
from llave_hf.runtime.places import find_file
from llave_hf.runtime.progress import forward_bar
from llave_hf.runtime.version import __version__

from .samples import Sample, affordable, fingerprint_samples
from .stages import model_stages, pixel_summary, prompt_text, token_ids, visual_module

FILE = "fingerprint.json"
FORMAT = 1
_LIBRARIES = ("numpy", "pillow", "sentence-transformers", "tokenizers", "torch", "torchvision", "transformers")


def write_fingerprint(
    folder: str | os.PathLike[str],
    *,
    model: PreTrainedModel | None = None,
    processor: Any = None,
    dtype: str | torch.dtype = torch.float32,
    thorough: bool = False,
) -> Path:
    """Writes `fingerprint.json` into a saved model folder.

    Args:
        folder: A folder that `AutoModel` and `AutoProcessor` open.
        model: What the folder holds, where it is in memory already; it computes in its own dtype, on its own device.
        processor: Likewise.
        dtype: What the model is opened in, on the CPU, where it is not given.
        thorough: See [`make_fingerprint`].

    Raises:
        UserError: The folder holds no model, or the model gives a vector that is not finite.
    """
    root = Path(folder)
    if not (root / "config.json").is_file():
        raise UserError(f"{root} holds no model (no config.json); save model and processor there first.")
    if processor is None:
        processor = AutoProcessor.from_pretrained(root)
    if model is None:
        model = AutoModel.from_pretrained(root)
        cast(model, getattr(torch, dtype) if isinstance(dtype, str) else dtype)
    return save_fingerprint(root, make_fingerprint(model, processor, thorough=thorough))


def save_fingerprint(folder: Path, fingerprint: dict[str, Any]) -> Path:
    """Writes what [`make_fingerprint`] gave."""
    path = folder / FILE
    path.write_text(_rendered(fingerprint), encoding="utf-8")
    return path


def make_fingerprint(model: PreTrainedModel, processor: Any, *, thorough: bool = False) -> dict[str, Any]:
    """The content of the file. A model without vision sees the samples without media only.

    Prompt, tokens and pixels are those of all samples; features and vectors of those that are [`affordable`], of all
    if `thorough`.
    """
    samples = [sample for sample in fingerprint_samples() if visual_module(model) is not None or not sample.has_media]
    chosen = {sample.name for sample in affordable(model.num_parameters(), model.device.type, thorough=thorough)}
    inputs = {sample.name: processor(**sample.columns) for sample in samples}
    was_training = model.training
    model.eval()
    try:
        computed = [inputs[sample.name] for sample in samples if sample.name in chosen]
        with forward_bar(model, computed, "Fingerprint"):
            recorded = {
                sample.name: _record(model if sample.name in chosen else None, processor, sample, inputs[sample.name])
                for sample in samples
            }
    finally:
        model.train(was_training)
    return {"format": FORMAT, **surroundings(model, processor), "samples": recorded}


def _record(model: PreTrainedModel | None, processor: Any, sample: Sample, inputs: Any) -> dict[str, Any]:
    prepared = {
        "prompt": prompt_text(processor, sample),
        "tokens": run_lengths(token_ids(inputs)),
        "pixels": pixel_summary(inputs),
    }
    found = {} if model is None else model_stages(model, inputs)
    for stage, values in found.items():
        if not all(map(math.isfinite, values)):
            raise UserError(
                f"the sample {sample.name!r} gives a {stage} with NaN or infinity, so no {FILE} was written; the "
                "weights are broken, or their numbers are too large for the dtype: try float32."
            )
    return {**prepared, **found}


def _rendered(fingerprint: dict[str, Any]) -> str:
    """JSON with one line a stage."""
    lines = [f" {_pair(key, value)}" for key, value in fingerprint.items() if key != "samples"]
    samples = []
    for name, stages in fingerprint["samples"].items():
        inner = ",\n".join(f"   {_pair(stage, value)}" for stage, value in stages.items())
        samples.append(f"  {_json(name)}: {{\n{inner}\n  }}")
    lines.append(' "samples": {\n' + ",\n".join(samples) + "\n }")
    return "{\n" + ",\n".join(lines) + "\n}\n"


def _pair(key: str, value: Any) -> str:
    return f"{_json(key)}: {_json(value)}"


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def surroundings(model: PreTrainedModel, processor: Any) -> dict[str, Any]:
    """What may explain a difference: precision, device, versions."""
    return {
        "dtype": str(model.dtype).removeprefix("torch."),
        "device": model.device.type,
        "attention": model.config._attn_implementation,
        "image_backend": processor.backend,
        "platform": f"{platform.system()} {platform.machine()}",
        "versions": {"llave_hf": __version__, **{name: version(name) for name in _LIBRARIES}},
    }


def read_fingerprint(model: str | os.PathLike[str]) -> dict[str, Any]:
    """The fingerprint of a folder or Hub id.

    Raises:
        UserError: There is none, it cannot be read, or another version of llave_hf must read it.
    """
    path = _find(model)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is no JSON ({error}); fetch it again or write it anew.") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise UserError(f"{path} is not of format {FORMAT}; use the version of llave_hf that wrote it.")
    names = set(content.get("samples", ()))
    samples = fingerprint_samples()
    if names != {s.name for s in samples} and names != {s.name for s in samples if not s.has_media}:
        raise UserError(f"{path} does not hold all samples of format {FORMAT}; fetch it again or write it anew.")
    return content


def _find(model: str | os.PathLike[str]) -> Path:
    path = find_file(model, FILE)
    if path is None:
        raise UserError(
            f"{model} has no {FILE}, so there is nothing to compare with; write one where the model is known to be "
            "right: llave_hf.hub.fingerprint.write_fingerprint(folder)."
        )
    return path


def run_lengths(ids: list[int]) -> list[Any]:
    """Token ids with every run of equal ones as `[id, count]`: visual placeholders come in thousands."""
    coded: list[Any] = []
    for token in ids:
        last = coded[-1] if coded else None
        if isinstance(last, list) and last[0] == token:
            last[1] += 1
        elif last == token:
            coded[-1] = [token, 2]
        else:
            coded.append(token)
    return coded


def expanded(coded: list[Any]) -> list[int]:
    """The inverse of [`run_lengths`]."""
    ids: list[int] = []
    for entry in coded:
        ids.extend([entry[0]] * entry[1] if isinstance(entry, list) else [entry])
    return ids
