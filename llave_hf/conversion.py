"""From a published LLaVE checkpoint to a native folder, with a report that says what was taken from where."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModel, AutoProcessor, PreTrainedConfig

from .errors import UserError
from .hub.fingerprint_samples import fingerprint_samples
from .initialisation import refuse_used_folder
from .llava_qwen.configuration import LlavaQwenConfig
from .llava_qwen.modeling import LlavaQwenModel
from .llava_qwen.parity import TOLERANCE, RowParity, compare, parity_table
from .llava_qwen.processing import LlavaQwenProcessor
from .llava_qwen.reference import read_reference
from .modeling_llave import LlaveModel
from .places import check_model
from .processing_llave import LlaveProcessor

TORCHVISION_TOLERANCE = 5e-4  # torchvision's antialiasing differs from Pillow's by a level here and there
REOPENED_TOLERANCE = 1e-6  # in float32
HALF_TOLERANCE = 1e-2  # sentence-transformers normalises in the weights' type, this package in float32


@dataclass
class ConversionReport:
    """What `llave convert` prints."""

    source: str
    folder: Path
    lines: list[str]
    reopened: dict[str, float]
    parity: list[RowParity] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    tolerance: float = TOLERANCE
    reopened_tolerance: float = REOPENED_TOLERANCE
    exact_pixels: bool = True

    @property
    def ok(self) -> bool:
        """Whether everything that was compared is within its tolerance."""
        compared = all(row.passes(self.tolerance, exact_pixels=self.exact_pixels) for row in self.parity)
        return compared and all(value <= self.reopened_tolerance for value in self.reopened.values())

    def to_markdown(self) -> str:
        reopened = [
            f"- {name}: vectors of {len(fingerprint_samples())} inputs differ by at most {value:.1e}"
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
    **hub: Any,
) -> ConversionReport:
    """Writes the native folder of a published checkpoint, opens it again and compares.

    Args:
        source: A folder or a Hub id in the published layout.
        folder: Where the native folder is written; must not exist or be empty.
        reference: A folder of the research code's values (see `llava_qwen.reference`) to compare with.
        vision_tower: A SigLIP folder or Hub id, for a checkpoint without vision weights.
        dtype: Of the written weights; None keeps the checkpoint's.
        settings: Of the [`LlaveProcessor`] (`backend`, `resize_order`, ...), kept in the folder.
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
    model.save_pretrained(target)
    processor.save_pretrained(target)
    exact = processor.backend == "pil"
    return ConversionReport(
        source=os.fspath(source),
        folder=target,
        lines=_describe(published, model, processor, info),
        reopened=_reopen(target, model, processor),
        parity=compare(model, processor, rows),
        skipped=skipped,
        tolerance=TOLERANCE if exact else TORCHVISION_TOLERANCE,
        reopened_tolerance=REOPENED_TOLERANCE if model.dtype == torch.float32 else HALF_TOLERANCE,
        exact_pixels=exact,
    )


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


@torch.inference_mode()
def _reopen(folder: Path, model: LlaveModel, processor: LlaveProcessor) -> dict[str, float]:
    """Largest difference between the source's vectors and those of the written folder, by how it is opened."""
    from sentence_transformers import SentenceTransformer

    samples = fingerprint_samples()
    expected = torch.cat([model(**processor(**sample.columns)).embeddings for sample in samples])
    again, again_processor = AutoModel.from_pretrained(folder), AutoProcessor.from_pretrained(folder)
    reopened = torch.cat([again(**again_processor(**sample.columns)).embeddings for sample in samples])
    encoded = SentenceTransformer(str(folder), device="cpu").encode([s.entry for s in samples], batch_size=1)
    return {
        "AutoModel": float((reopened - expected).abs().max()),
        "SentenceTransformer": float(np.abs(np.asarray(encoded) - expected.numpy()).max()),
    }
