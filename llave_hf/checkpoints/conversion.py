"""Converts a published LLaVE checkpoint to a folder that transformers opens; reports what was taken from where."""

from __future__ import annotations

import gc
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoProcessor, PreTrainedConfig, PreTrainedModel

from llave_hf.checkpoints.llava_qwen.configuration import LlavaQwenConfig
from llave_hf.checkpoints.llava_qwen.modeling import LlavaQwenModel
from llave_hf.checkpoints.llava_qwen.parity import TOLERANCE, RowParity, compare, parity_table
from llave_hf.checkpoints.llava_qwen.processing import LlavaQwenProcessor
from llave_hf.checkpoints.llava_qwen.reference import read_reference
from llave_hf.errors import UserError
from llave_hf.hub.fingerprint.fingerprint import make_fingerprint, save_fingerprint
from llave_hf.hub.fingerprint.samples import Sample, affordable, fingerprint_samples
from llave_hf.hub.fingerprint.stages import full_precision, summary
from llave_hf.model.modeling_llave import LlaveModel
from llave_hf.model.processing_llave import LlaveProcessor
from llave_hf.runtime.opening import cast, let_go, without_advice
from llave_hf.runtime.places import check_model
from llave_hf.runtime.progress import forward_bar, patient_bar, writing_bar

from .initialisation import refuse_used_folder

TORCHVISION_TOLERANCE = 5e-4  # torchvision's antialiasing differs from Pillow's by a level here and there
REOPENED_TOLERANCE = 1e-6  # everything is computed in float32
COMPARED = ("text", "tall image and text")  # of samples that a large model is given few of


@dataclass
class ConversionReport:
    """What `llave convert` prints."""

    source: str
    folder: Path
    lines: list[str]
    compared: int
    reopened: dict[str, float]
    other_weights: list[str] = field(default_factory=list)
    parity: list[RowParity] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    tolerance: float = TOLERANCE
    exact_pixels: bool = True

    @property
    def ok(self) -> bool:
        """Whether everything that was compared is within its tolerance."""
        compared = all(row.passes(self.tolerance, exact_pixels=self.exact_pixels) for row in self.parity)
        near = all(value <= REOPENED_TOLERANCE for value in self.reopened.values())
        return compared and near and not self.other_weights

    def to_markdown(self) -> str:
        differing = f"DIFFER in {', '.join(self.other_weights[:5])} ({len(self.other_weights)})"
        reopened = [f"- weights: {differing if self.other_weights else 'equal to the bit'}"]
        reopened += [
            f"- {name}: vectors of {self.compared} inputs differ by at most {value:.1e}"
            for name, value in self.reopened.items()
        ]
        parts = [f"# {self.source} → {self.folder}", *self.lines, "\n## Reopened, against the source\n", *reopened]
        if self.parity:
            table = parity_table(self.parity, self.tolerance, exact_pixels=self.exact_pixels)
            parts += ["\n## Against the research code's recorded values\n", table]
            for why in dict.fromkeys(self.skipped.values()):
                names = ", ".join(name for name, reason in self.skipped.items() if reason == why)
                parts.append(f"\nNot compared ({why}): {names}")
        parts += ["\n## Differs from the research code on purpose\n", *(f"- {line}" for line in _ON_PURPOSE)]
        return "\n".join(parts)


_ON_PURPOSE = (
    "An input that is too long loses the end of its text and keeps the prompt's end; the research code cuts the "
    "sequence and pools whatever token is last.",
    "Left padding pools the same token as right padding.",
    "A literal `<image>` or `<|endoftext|>` in a text is text.",
)


def convert(
    source: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    *,
    reference: str | os.PathLike[str] | None = None,
    vision_tower: str | None = None,
    dtype: str | None = None,
    settings: dict[str, Any] | None = None,
    thorough: bool = False,
    **hub: Any,
) -> ConversionReport:
    """Writes the native folder of a published checkpoint, opens it again, compares, and writes its fingerprint.

    The weights keep their type; what is compared is computed in float32. The source is let go before the folder
    computes, so that one copy in float32 is in memory at a time.

    Args:
        source: A folder or a Hub id in the published layout.
        folder: Where the native folder is written; must not exist or be empty.
        reference: A folder of the research code's values (see `llava_qwen.reference`) to compare with.
        vision_tower: A SigLIP folder or Hub id, for a checkpoint without vision weights.
        dtype: Of the written weights; None keeps the checkpoint's.
        settings: Of the [`LlaveProcessor`] (`backend`, `resize_order`, ...), kept in the folder.
        thorough: Put all samples through a large model, where it is otherwise given a few.
        **hub: `revision`, `token`, ...

    Raises:
        UserError: The checkpoint cannot be followed (each case says why), or `folder` is in use.
    """
    target = Path(folder)
    refuse_used_folder(target)
    check_model(source, **hub)
    check_model(vision_tower)
    fields, _ = PreTrainedConfig.get_config_dict(source, **hub)
    if fields.get("model_type") != LlavaQwenConfig.model_type:
        raise UserError(
            f"{source} is a {fields.get('model_type')!r} model, not a published LLaVE checkpoint (llava_qwen); make "
            "an embedding model out of a backbone with `llave init`."
        )
    rows, skipped = read_reference(reference) if reference is not None else ([], {})
    published = LlavaQwenConfig.from_pretrained(source, **hub)
    loading = {"dtype": dtype or "auto", **({"vision_tower": vision_tower} if vision_tower else {})}
    model, info = LlavaQwenModel.from_pretrained(source, output_loading_info=True, **loading, **hub)
    processor = LlavaQwenProcessor.from_pretrained(source, **(settings or {}), **hub)
    model.eval()
    with writing_bar(target, sum(parameter.nbytes for parameter in model.parameters()), "Writing"):
        model.save_pretrained(target)
    processor.save_pretrained(target)
    exact = processor.backend == "pil"
    lines = _describe(published, model, processor, info)
    reopened = _Reopened(target, thorough=thorough)
    other_weights = different_weights(model, reopened.model)
    let_go(reopened.model)
    cast(model, torch.float32)
    parity = compare(model, processor, patient_bar(rows, "Reference values", unit="input"))
    expected = _vectors(model, processor, reopened.samples)
    del model
    gc.collect()  # a model refers to itself
    differences, fingerprint = reopened.against(expected)
    report = ConversionReport(
        source=os.fspath(source),
        folder=target,
        lines=lines,
        compared=len(expected),
        reopened=differences,
        other_weights=other_weights,
        parity=parity,
        skipped=skipped,
        tolerance=TOLERANCE if exact else TORCHVISION_TOLERANCE,
        exact_pixels=exact,
    )
    if report.ok:
        save_fingerprint(target, fingerprint)
    return report


def _describe(
    published: LlavaQwenConfig, model: LlaveModel, processor: LlaveProcessor, info: dict[str, Any]
) -> list[str]:
    vision = any(name.startswith("backbone.vision_tower.") for name in info["missing_keys"])
    tower = published.fields.get("mm_vision_tower")
    defaults = ", ".join(f"{name}: {value!r}" for name, value in published.defaulted().items())
    return [
        f"- {sum(p.numel() for p in model.parameters()):,} parameters, {str(model.dtype).removeprefix('torch.')}; "
        "the language-model head is left out",
        f"- vision tower: {f'from {tower}, the checkpoint has none' if vision else 'from the checkpoint'}, "
        f"{model.backbone.config.vision_config.num_hidden_layers} layers",
        f"- tokens: {processor.image_token} {processor.image_token_id}, {processor.video_token} "
        f"{processor.video_token_id}, in spare rows of {published.fields['vocab_size']}",
        f"- defaults for what config.json leaves out: {defaults or 'none needed'}",
        f"- longest input {processor.max_length} tokens, grids up to {processor.image_grid_pinpoints[-1]} pixels, "
        f"newlines of videos: {processor.video_newline}",
    ]


def different_weights(model: PreTrainedModel, other: PreTrainedModel) -> list[str]:
    """Names of the parameters that are not equal to the bit in two models of the same type."""
    mine, others = dict(model.named_parameters()), dict(other.named_parameters())
    return sorted(
        name
        for name in mine.keys() | others.keys()
        if name not in mine or name not in others or not _same_bits(mine[name], others[name])
    )


def _same_bits(one: torch.Tensor, other: torch.Tensor) -> bool:
    if (one.dtype, one.shape) != (other.dtype, other.shape):
        return False
    return torch.equal(one.detach().reshape(-1).view(torch.uint8), other.detach().reshape(-1).view(torch.uint8))


@torch.inference_mode()
def _vectors(model: LlaveModel, processor: LlaveProcessor, samples: list[Sample]) -> list[torch.Tensor]:
    inputs = [processor(**sample.columns) for sample in samples]
    with forward_bar(model, inputs, "Source"), full_precision(model.device):
        return [model(**given).embeddings[0] for given in inputs]


class _Reopened:
    """The written folder as users open it, once: `SentenceTransformer` opens it by `AutoModel`.

    Attributes:
        model: What `AutoModel` gives, in the type that was written until [`against`] computes.
        samples: Those whose vectors are compared with the source's.
    """

    def __init__(self, folder: Path, *, thorough: bool) -> None:
        from sentence_transformers import SentenceTransformer

        with without_advice():
            self._transformer = SentenceTransformer(str(folder), device="cpu")
        self._processor = AutoProcessor.from_pretrained(folder)
        self._thorough = thorough
        self.model: LlaveModel = self._transformer[0].auto_model
        chosen = affordable(self.model.num_parameters(), "cpu", thorough=thorough)
        whole = len(chosen) == len(fingerprint_samples())
        self.samples = [sample for sample in chosen if whole or sample.name in COMPARED]

    def against(self, expected: list[torch.Tensor]) -> tuple[dict[str, float], dict[str, Any]]:
        """Largest difference from the source's vectors, by what opens the folder, and the folder's fingerprint.

        The fingerprint's own forward serves the comparison, so it has a vector's numbers as [`summary`] keeps them.
        """
        cast(self.model, torch.float32)
        fingerprint = make_fingerprint(self.model, self._processor, thorough=self._thorough)
        inputs = [self._processor(**sample.columns) for sample in self.samples]
        with forward_bar(self.model, inputs, "SentenceTransformer"), full_precision(self.model.device):
            encoded = [self._transformer.encode([s.entry], show_progress_bar=False)[0] for s in self.samples]
        recorded = [fingerprint["samples"][sample.name]["vector"] for sample in self.samples]
        differences = {
            "AutoModel": _largest(recorded, [summary(vector) for vector in expected]),
            "SentenceTransformer": _largest(encoded, [vector.numpy() for vector in expected]),
        }
        return differences, fingerprint


def _largest(found: Sequence[Any], expected: Sequence[Any]) -> float:
    return max(float(np.abs(np.asarray(a) - np.asarray(b)).max()) for a, b in zip(found, expected, strict=True))
