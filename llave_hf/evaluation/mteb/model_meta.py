"""What mteb writes beside a score about the model: `mteb.ModelMeta`, from what is in memory and in its folder."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, get_args

import torch
from huggingface_hub import ModelCard
from mteb.models.model_meta import ModelMeta, ScoringFunction
from mteb.types import Licenses
from sentence_transformers import SentenceTransformer

from llave_hf.encoding.encoder import LlaveEncoder
from llave_hf.evaluation.benchmark.loading import load_benchmark
from llave_hf.runtime.places import find_file, hub_id

from .batches import MODALITIES

MEBIBYTE = 1 << 20
_COMMIT = re.compile(r"[0-9a-f]{40}")
NO_REVISION = "no_revision_available"  # mteb's own word
MMEB_TRAIN = "TIGER-Lab/MMEB-train"
# mteb's tasks on data sets that MMEB-train draws on
MTEB_TASKS_OF_MMEB_TRAIN = (
    "CIRRIT2IRetrieval",
    "HatefulMemesI2TRetrieval",
    "HatefulMemesT2IRetrieval",
    "Imagenet1k",
    "Imagenet1kZeroShot",
    "MSCOCOI2TRetrieval",
    "MSCOCOT2IRetrieval",
    "NIGHTSI2IRetrieval",
    "OKVQAIT2TRetrieval",
    "SUN397",
    "SUN397ZeroShot",
    "VOC2007",
    "VidoreDocVQARetrieval",
    "VidoreInfoVQARetrieval",
    "VisualNewsI2TRetrieval",
    "VisualNewsT2IRetrieval",
    "WebQAT2ITRetrieval",
    "WebQAT2TRetrieval",
)


def model_meta(
    encoder: Any,
    source: str | os.PathLike[str] | None,
    *,
    revision: str | None,
    use_instructions: bool,
    loader: Callable[..., Any],
    changes: Mapping[str, Any],
) -> ModelMeta:
    """Everything that is known about an encoder; what is not known is None.

    Args:
        source: The folder or Hub id that it was opened from.
        revision: From :mod:`llave_hf.encoding.model_identity`.
        changes: Fields that the caller knows better.

    Raises:
        pydantic.ValidationError: A field of `changes` is none of mteb's, or has a value that it does not take.
    """
    module = encoder if isinstance(encoder, torch.nn.Module) else getattr(encoder, "model", None)
    known = {
        "name": _name(encoder, source),
        # a part of a folder's name in mteb's cache, which not every file system takes with a colon
        "revision": (revision or NO_REVISION).replace(":", "-"),
        "modalities": modalities(encoder),
        "embed_dim": dimensions(encoder),
        "max_tokens": getattr(encoder, "max_seq_length", None),
        "open_weights": True if isinstance(module, torch.nn.Module) else None,
        "similarity_fn_name": ScoringFunction.from_str(getattr(encoder, "similarity_fn_name", None) or "cosine"),
        "framework": _frameworks(encoder),
        "use_instructions": use_instructions,
        "loader": loader,
        **_sizes(module),
        **_from_card(source, revision),
    }
    empty = ModelMeta.create_empty().model_dump()
    return ModelMeta.model_validate({**empty, **known, **changes})


def modalities(encoder: Any) -> list[str]:
    """Which of text, image and video it embeds: its own word, else all, as the encoder protocol has it."""
    own = getattr(encoder, "modalities", MODALITIES)
    return [name for name in MODALITIES if name in own]


def dimensions(encoder: Any) -> int | None:
    """D of its vectors."""
    if isinstance(encoder, SentenceTransformer):
        return encoder.get_embedding_dimension()
    return encoder.model.config.hidden_size if isinstance(encoder, LlaveEncoder) else None


def _name(encoder: Any, source: str | os.PathLike[str] | None) -> str:
    """An owner and a name, as mteb wants it; `local/` where there is no owner."""
    if source is None:
        return f"local/{type(encoder).__name__}"
    return hub_id(source) or f"local/{Path(source).resolve().name}"


def _frameworks(encoder: Any) -> list[str]:
    if isinstance(encoder, SentenceTransformer):
        return ["Sentence Transformers", "PyTorch"]
    return ["PyTorch", "Transformers"] if isinstance(encoder, LlaveEncoder) else []


def _sizes(module: Any) -> dict[str, Any]:
    if not isinstance(module, torch.nn.Module):
        return {}
    parameters = list(module.parameters())
    tables = {part.weight for part in module.modules() if isinstance(part, torch.nn.Embedding)}
    return {
        "n_parameters": sum(parameter.numel() for parameter in parameters),
        "n_embedding_parameters": max((table.numel() for table in tables), default=None),
        "memory_usage_mb": sum(parameter.numel() * parameter.element_size() for parameter in parameters) / MEBIBYTE,
    }


def _from_card(source: str | os.PathLike[str] | None, revision: str | None) -> dict[str, Any]:
    """From the model card of a folder or of a Hub id, which has a page as well."""
    if source is None:
        return {}
    page = {"reference": f"https://huggingface.co/{source}"} if hub_id(source) else {}
    card = find_file(source, "README.md", revision=revision if _COMMIT.fullmatch(revision or "") else None)
    if card is None:
        return page
    data = ModelCard.load(card).data
    license, base, sets = data.get("license"), data.get("base_model"), data.get("datasets") or []
    return page | {
        "license": license if license in get_args(Licenses) else None,
        "adapted_from": base if isinstance(base, str) else None,
        "training_datasets": _training_datasets([sets] if isinstance(sets, str) else sets),
    }


def _training_datasets(sets: list[str]) -> set[str] | None:
    """Names of tasks whose data a model has seen, for mteb's mark of contamination; None: it is not known."""
    if set(sets) != {MMEB_TRAIN}:
        return None
    mmeb = load_benchmark("mmeb")
    own = {f"{mmeb.name}-{task.name}" for task in mmeb.tasks if task.distribution == "in"}
    return own | set(MTEB_TASKS_OF_MMEB_TRAIN)
