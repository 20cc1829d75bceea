"""The similarities that the cards of the published LLaVE models print, recomputed: `llave verify --picture FILE`."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoModel, AutoProcessor, PreTrainedConfig, PreTrainedModel

from llave_hf.errors import UserError
from llave_hf.runtime.opening import cast
from llave_hf.runtime.places import check_file, check_model

from .stages import full_precision
from .verify import Difference, Verdict

TOLERANCE = 0.005  # the cards' values were computed in 16 bits
QUESTION = "Represent the given image with the following question: What is in the image"
IMAGE = "Represent the given image."
CAPTION = "Find me an everyday image that matches the given caption: {}."


@dataclass(frozen=True)
class Reference:
    """One printed similarity: of a picture with `image_text`, and a text."""

    image_text: str
    text: str
    cosine: float


REFERENCES = {
    "0.5B": (
        Reference(QUESTION, "A cat and a dog", 0.4802),
        Reference(QUESTION, "A cat and a tiger", 0.3413),
    ),
    "2B": (
        Reference(QUESTION, "A cat and a dog", 0.5132),
        Reference(QUESTION, "A cat and a tiger", 0.3809),
        Reference(IMAGE, CAPTION.format("A cat and a dog"), 0.5225),
        Reference(IMAGE, CAPTION.format("A cat and a tiger"), 0.4141),
    ),
}
_SHAPES = {(896, 24): "0.5B", (1536, 28): "2B"}  # hidden size and layers of the language model


def verify_published(
    model: str | os.PathLike[str],
    picture: str | os.PathLike[str],
    *,
    size: str | None = None,
    dtype: str = "float32",
    device: str = "cpu",
) -> Verdict:
    """Compares a model's similarities with those of its published card.

    Args:
        model: A folder or Hub id of a published model, or a conversion of it.
        picture: The card's own picture, `figures/example.jpg` of the published repository.
        size: One of [`REFERENCES`]; None asks [`published_size`].
        dtype, device: What the model computes in, and where.

    Raises:
        UserError: `size` is None and the model is not recognised.
    """
    check_model(model)
    size = size or published_size(model)
    if size is None:
        raise UserError(
            f"{model} is not recognised as a published LLaVE; say which: --published {'|'.join(REFERENCES)}."
        )
    check_file(picture, "The picture")
    network = AutoModel.from_pretrained(model).eval()
    cast(network, getattr(torch, dtype))
    network.to(device)
    processor = AutoProcessor.from_pretrained(model)
    lines, difference = [], None
    for reference in REFERENCES[size]:
        cosine = similarity(network, processor, reference, picture)
        off = abs(cosine - reference.cosine)
        agrees = off <= TOLERANCE
        detail = f"{cosine:.4f}, the card of LLaVE-{size} says {reference.cosine:.4f}"
        name = f"picture with {reference.image_text!r} and {reference.text!r}"
        lines.append(f"{'agrees' if agrees else 'DIFFERS'}: {name}: {detail}")
        if not agrees and difference is None:
            difference = Difference("vector", name, detail)
    if difference is not None:
        lines.append(
            f"  {TOLERANCE:g} is allowed; usually the picture is not the card's, the weights are not LLaVE-{size}'s, "
            "or the processor's tiling or prompt is another."
        )
    return Verdict(lines, difference)


def published_size(model: str | os.PathLike[str]) -> str | None:
    """`"0.5B"` or `"2B"` for a model that is LLaVE by its name and by its language model's shape, else None."""
    fields, _ = PreTrainedConfig.get_config_dict(model)
    names = f"{os.path.basename(os.path.normpath(model))} {fields.get('_name_or_path', '')}".lower()
    text = fields.get("backbone_config", {}).get("text_config", fields)
    shape = (text.get("hidden_size"), text.get("num_hidden_layers"))
    return _SHAPES.get(shape) if "llave" in names else None


def similarity(model: PreTrainedModel, processor: Any, reference: Reference, picture: Any) -> float:
    """The cosine of a reference's two sides."""
    sides = (card_inputs(processor, reference.image_text, picture), processor(text=[reference.text]))
    with torch.inference_mode(), full_precision(model.device):
        left, right = (model(**side.to(model.device)).embeddings[0].float() for side in sides)
    return float(torch.nn.functional.cosine_similarity(left, right, dim=0))


def card_inputs(processor: Any, text: str, picture: Any) -> Any:
    """A picture and a text as the cards' snippets join them, with a space, where training has a newline."""
    return processor(text=[f"<image> {text}"], images=[picture], placeholder="<image>")
