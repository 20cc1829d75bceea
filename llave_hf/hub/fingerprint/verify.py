"""`llave verify`: does a folder still give the vectors that it gave when it was saved, and if not, where do they part?

The stages are compared in the order in which data passes them: prompt, tokens, pixels, visual features, vector. The
first that differs is the one to mend; those after it are not looked at.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from llave_hf.runtime.places import check_model
from llave_hf.runtime.processor_dtypes import opening_dtype

from .comparison import Comparison, compare
from .fingerprint import read_fingerprint
from .recomputation import Recomputation, open_model
from .samples import Sample, affordable, fingerprint_samples
from .stages import MODEL_STAGES, STAGES

# Of float32 against float32, relative to the largest number of the vector: other attention code and another number of
# threads move a model of 24 layers and 896 dimensions by 2e-6.
TOLERANCE = 1e-5
LOOSE_TOLERANCE = 2e-2  # where either side computed in bfloat16 or float16, or another library made the pixels

_NAMES = {"visual": "visual features"}
_USUALLY = {
    "prompt": "chat_template.jinja was edited or replaced; what renders it by itself embeds another prompt.",
    "tokens": (
        "tokenizer.json or tokenizer_config.json is not the one that the model was trained with, or the processor "
        "puts another prompt or another number of visual tokens around a text (processor_config.json, llave_hf)."
    ),
    "pixels": (
        "image_mean, image_std, sizes, tiling or backend in processor_config.json were changed, or this version of "
        "the imaging library resizes differently."
    ),
    "visual": (
        "weights of the vision tower or of the projector were changed or not loaded (loading warns of those), or "
        "they were computed in another precision."
    ),
    "vector": (
        "weights of the language model were changed, reordered or not loaded (loading warns of those), another "
        "token is pooled, or the normalisation is another (config.json, modules.json, 1_Pooling)."
    ),
}


@dataclass(frozen=True)
class Difference:
    """Where a model parts from its fingerprint: the stage, the first sample there, and by how much."""

    stage: str
    sample: str
    detail: str


@dataclass(frozen=True)
class Verdict:
    """Lines to print, and the first difference, None where all agrees."""

    lines: list[str]
    difference: Difference | None = None


def verify(
    model: str | os.PathLike[str],
    *,
    backend: str = "auto",
    dtype: str | None = None,
    device: str = "cpu",
    thorough: bool = False,
) -> Verdict:
    """Recomputes a model's fingerprint and compares.

    Prompts and tokens must be equal, and so must pixels that Pillow made (`backend="pil"` of the processor); other
    pixels by their mean and deviation. Visual features and vectors may differ by [`TOLERANCE`], or
    [`LOOSE_TOLERANCE`] where either side computed in 16 bits or the pixels are not the same bytes.

    Args:
        model: A folder or Hub id with a `fingerprint.json`.
        backend: One of [`llave_hf.hub.fingerprint.recomputation.BACKENDS`].
        dtype: What the model computes in; None takes the fingerprint's, or float32 on a CPU that does not multiply
            that type by itself.
        device: `"cpu"`, `"cuda"`, ...
        thorough: Put all samples through the model that the fingerprint has vectors of. A large model on a CPU is
            otherwise given a few of them, see [`affordable`].

    Raises:
        UserError: There is no fingerprint, or it cannot be read.
        ValueError, OSError: The model or its processor cannot be opened.
    """
    check_model(model)
    fingerprint = read_fingerprint(model)
    best = opening_dtype(getattr(torch, fingerprint["dtype"]), device)
    opened = open_model(model, backend, dtype or str(best).removeprefix("torch."), device)
    compared = _compare_until_one_differs(fingerprint, opened, thorough)
    stage, last = list(compared.items())[-1]
    if not all(comparison.agrees for comparison in last.values()):
        return _disagreement(stage, last, opened.stages, _changes(fingerprint, opened.surroundings))
    left_out = [stage for stage in STAGES if stage not in compared]
    note = f" (not compared: {_named(left_out)})" if left_out else ""
    lines = [*_sample_lines(compared), f"agrees: {len(compared['prompt'])} samples, backend {backend}{note}"]
    if skipped := len(compared["prompt"]) - len(last):
        why = "the fingerprint has no more" if thorough else "--thorough takes all that the fingerprint has"
        lines.append(f"{skipped} of them were compared up to their pixels, not put through the model; {why}.")
    if dtype is None and opened.surroundings["dtype"] != fingerprint["dtype"]:
        lines.append(
            f"Computed in float32: this processor does not multiply {fingerprint['dtype']} by itself "
            f"(--dtype {fingerprint['dtype']} takes it)."
        )
    return Verdict(lines)


def _compare_until_one_differs(
    fingerprint: Mapping[str, Any], opened: Recomputation, thorough: bool
) -> dict[str, dict[str, Comparison]]:
    """Comparisons by stage and sample, up to the first stage in which a sample differs."""
    in_float32 = fingerprint["dtype"] == opened.surroundings["dtype"] == "float32"
    written = fingerprint["samples"]
    tolerances = dict.fromkeys(written, TOLERANCE if in_float32 else LOOSE_TOLERANCE)
    compared: dict[str, dict[str, Comparison]] = {}
    of_model = _through_the_model(written, opened, thorough)
    for stage in opened.stages:
        of_model_only = stage in MODEL_STAGES
        if of_model_only and not compared.keys() & set(MODEL_STAGES):
            opened.run(of_model)
        compared[stage] = {
            sample.name: compare(
                stage,
                written[sample.name].get(stage),
                opened.value(stage, sample),
                tolerance=tolerances[sample.name],
                exact_pixels=fingerprint["image_backend"] == "pil",
            )
            for sample in (of_model if of_model_only else fingerprint_samples())
            if sample.name in written
        }
        if not all(comparison.agrees for comparison in compared[stage].values()):
            break
        tolerances |= {name: LOOSE_TOLERANCE for name, made in compared[stage].items() if made.other_bytes}
    return compared


def _through_the_model(written: Mapping[str, Any], opened: Recomputation, thorough: bool) -> list[Sample]:
    """The samples whose vectors are compared."""
    device = opened.surroundings["device"]
    chosen = affordable(opened.model.num_parameters(), device, thorough=thorough)
    return [sample for sample in chosen if "vector" in written.get(sample.name, ())]


def _disagreement(
    stage: str, comparisons: Mapping[str, Comparison], stages: tuple[str, ...], changed: list[str]
) -> Verdict:
    differing = [name for name, comparison in comparisons.items() if not comparison.agrees]
    detail = comparisons[differing[0]].detail
    others = f", and in {len(differing) - 1} more of {len(comparisons)}" if len(differing) > 1 else ""
    at = stages.index(stage)
    lines = [
        f"DIFFERS first at {_named([stage])}, in the sample {differing[0]!r}{others}",
        f"  {detail}",
        f"  usually: {_USUALLY[stage]}",
    ]
    if at:
        lines.append(f"  equal before it: {_named(stages[:at])}")
    if stages[at + 1 :]:
        lines.append(f"  not looked at after it: {_named(stages[at + 1 :])}")
    lines.append(f"  changed since it was written: {', '.join(changed) or 'no version, dtype or device'}")
    return Verdict(lines, Difference(stage, differing[0], detail))


def _named(stages: Any) -> str:
    return ", ".join(_NAMES.get(stage, stage) for stage in stages)


def _changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What is not as it was when the fingerprint was written, as `name old -> new`."""
    changes = []
    for name, value in now.items():
        if isinstance(value, Mapping):
            changes += _changes(before.get(name, {}), value)
        elif before.get(name) != value:
            changes.append(f"{name} {before.get(name)} -> {value}")
    return changes


def _sample_lines(compared: Mapping[str, Mapping[str, Comparison]]) -> list[str]:
    """One line a sample: by how much it differs at most, and at which stage."""
    names = list(compared["prompt"])
    width = max(map(len, names))
    lines = []
    for name in names:
        made = [(comparisons[name].amount, stage) for stage, comparisons in compared.items() if name in comparisons]
        amount, stage = max(made)
        where = f" ({_named([stage])})" if amount else ""
        lines.append(f"{name:<{width}}  largest difference {amount:.1e}{where}")
    return lines
