"""Makes an embedding model out of a vision-language model, before any training."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from llave_hf.errors import UserError
from llave_hf.hub.fingerprint.fingerprint import write_fingerprint
from llave_hf.model.configuration_llave import split_hub_arguments
from llave_hf.model.geometry_llave import swapped
from llave_hf.model.modeling_llave import LlaveModel
from llave_hf.model.processing_llave import LlaveProcessor
from llave_hf.runtime.opening import suit_processor
from llave_hf.runtime.places import check_model, check_output_folder
from llave_hf.runtime.progress import writing_bar

_MODEL_ONLY = ("dtype", "attn_implementation", "pooling", "normalize")


def init_from_backbone(
    backbone: str | os.PathLike[str], folder: str | os.PathLike[str], *, thorough: bool = False, **options: Any
) -> str:
    """Writes a folder that `AutoModel`, `AutoProcessor` and `SentenceTransformer` open, ready to train.

    Args:
        backbone: A folder or Hub id of a LLaVA-OneVision, Qwen2-VL, Qwen2.5-VL, Qwen3-VL or Qwen3.5 model, base or
            `...ForConditionalGeneration`.
        folder: Must not exist or be empty.
        thorough: Put all samples of the fingerprint through the model, see [`write_fingerprint`].
        **options: Settings of [`LlaveConfig`] and [`LlaveProcessor`], `dtype`, and the Hub's `revision`, `token`, ...

    Returns:
        One line for the screen.

    Raises:
        ValueError: The model is no possible backbone, or a setting is unknown.
        UserError: `folder` is in use.
    """
    target = Path(folder)
    refuse_used_folder(target)
    hub, settings = split_hub_arguments(options)
    check_model(backbone, **hub)
    of_model = {key: settings[key] for key in _MODEL_ONLY if key in settings}
    of_processor = {key: value for key, value in settings.items() if key not in _MODEL_ONLY}
    processor = LlaveProcessor.from_backbone(backbone, **of_processor, **hub)
    model = LlaveModel.from_backbone(backbone, **of_model, **hub).eval()
    match_processor(model, processor)
    with writing_bar(target, sum(parameter.nbytes for parameter in model.parameters()), "Writing"):
        model.save_pretrained(target)
    processor.save_pretrained(target)
    suit_processor(model, os.fspath(backbone), keep=False)
    write_fingerprint(target, model=model, processor=processor, thorough=thorough)
    size, dimension = sum(p.numel() for p in model.parameters()), model.config.hidden_size
    return (
        f"{target}: {model.config.backbone_config.model_type}, {size:,} parameters, vectors of {dimension} numbers. "
        "Not trained yet: name it as `model` in a recipe."
    )


def match_processor(model: LlaveModel, processor: LlaveProcessor) -> None:
    """Gives a LLaVA-OneVision model the grids, newlines and rounding that its processor was told to use.

    Both count visual tokens; a change made on one side only would be an error at the first picture.
    """
    if model.config.backbone_config.model_type != "llava_onevision":
        return
    model.config.video_newline = processor.video_newline
    model.config.unpad_rounding = processor.unpad_rounding
    grids = swapped(processor.image_grid_pinpoints)
    model.config.backbone_config.image_grid_pinpoints = grids
    model.backbone.config.image_grid_pinpoints = grids


def refuse_used_folder(folder: Path) -> None:
    """Nothing that somebody else wrote is overwritten.

    Raises:
        UserError: The folder holds something, or cannot be written to.
    """
    check_output_folder(folder, "The new folder")
    if folder.is_dir() and any(folder.iterdir()):
        raise UserError(f"{folder} is not empty; name a new folder.")
