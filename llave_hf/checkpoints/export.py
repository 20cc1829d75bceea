"""Exports a model in transformers' own classes, for whoever has no llave_hf: serving engines, other languages."""

from __future__ import annotations

import copy
import os
from pathlib import Path

from transformers import AutoModel, AutoProcessor

from llave_hf.errors import UserError
from llave_hf.model.modeling_llave import LlaveModel
from llave_hf.model.processing_llave import LlaveProcessor
from llave_hf.runtime.opening import suit_processor
from llave_hf.runtime.places import check_model
from llave_hf.runtime.progress import writing_bar

from .initialisation import refuse_used_folder
from .stock.layout import write_stock_layout
from .stock.processors import stock_processor
from .stock.serving import differences, write_serving_page
from .stock.tiling import TILINGS, refuse_tiling, tiling_costs
from .stock.weights import STOCK_CLASSES, save_stock_weights

FORMATS = ("stock", "llava_onevision")  # the second is the first for that backbone alone


def export(
    model: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    format: str = "stock",
    *,
    image_tiling: str | None = None,
) -> str:
    """Writes stock weights, processor, chat template, modules.json and a page on how to serve them.

    `AutoModel`, `AutoProcessor`, `SentenceTransformer` and serving engines with a pooling runner open the folder
    without llave_hf and without a trust flag.

    Args:
        model: A LLaVE folder or Hub id.
        folder: Must not exist or be empty.
        format: One of [`FORMATS`].
        image_tiling: How a LLaVA-OneVision model is to see pictures from now on: `"anyres"` or `"anyres_single"`,
            where it was trained with another tiling; what that costs is measured. None keeps the model's own.

    Returns:
        What was written, for which inputs transformers' own code gives other vectors, and what another tiling costs.

    Raises:
        UserError: The format or the backbone is another one, stock code has no such tiling, or `folder` is in use.
    """
    target = Path(folder)
    refuse_used_folder(target)
    if format not in FORMATS:
        raise UserError(f"format is {format!r}; choose one of {', '.join(map(repr, FORMATS))}.")
    if image_tiling not in (None, *TILINGS):
        raise UserError(f"image_tiling is {image_tiling!r}; stock code has {' and '.join(map(repr, TILINGS))}.")
    check_model(model)
    source, processor = AutoModel.from_pretrained(model), AutoProcessor.from_pretrained(model)
    _refuse_other_models(model, source, format)
    lines: list[str] = []
    if processor.backbone == "llava_onevision":
        wanted = image_tiling or processor.image_tiling
        refuse_tiling(wanted)
        if wanted != processor.image_tiling:
            lines, processor = _retiled(source.eval(), processor, model, wanted)
    elif image_tiling is not None:
        raise UserError(f"image_tiling is LLaVA-OneVision's; {model} is a {processor.backbone} model: leave it out.")
    with writing_bar(target, sum(parameter.nbytes for parameter in source.parameters()), "Writing"):
        save_stock_weights(source, target)
    stock_processor(processor).save_pretrained(target)
    write_stock_layout(target, source.config.hidden_size, source.config.normalize)
    write_serving_page(target, source, processor, lines)
    notes = [f"- {line}" for line in differences(source.config, processor)]
    return "\n".join([f"Written: {target}; how to serve it: {target / 'SERVING.md'}", *notes, *lines])


def _refuse_other_models(model: str | os.PathLike[str], source: object, format: str) -> None:
    kind = source.config.backbone_config.model_type if isinstance(source, LlaveModel) else None
    if kind not in STOCK_CLASSES or format not in ("stock", kind):
        backbones = [format] if format != "stock" else list(STOCK_CLASSES)
        named = ", ".join(backbones)
        raise UserError(f"{model} is no LLaVE model with a backbone of {named}: {format} is not for it.")


def _retiled(
    source: LlaveModel, processor: LlaveProcessor, model: str | os.PathLike[str], tiling: str
) -> tuple[list[str], LlaveProcessor]:
    changed = copy.deepcopy(processor)
    changed.image_tiling = tiling
    suit_processor(source, os.fspath(model), keep=False)
    return tiling_costs(source, processor, changed), changed
