"""SERVING.md of an exported folder: the command that serves it, which requests are right, and where stock code
differs."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2

from llave_hf.model.configuration_llave import LlaveConfig
from llave_hf.model.modeling_llave import LlaveModel
from llave_hf.model.processing_llave import LlaveProcessor

FILE = "SERVING.md"
_TIMED = ("qwen2_5_vl", "qwen3_vl", "qwen3_5")  # a clip's positions or tokens say when its frames are shown
_LINEAR = ("qwen3_5",)  # with linear attention, which vLLM computes in 16 bits alone on a CPU


def write_serving_page(
    folder: Path, model: LlaveModel, processor: LlaveProcessor, tiling_costs: Sequence[str] = ()
) -> None:
    """Writes the page into an exported folder.

    Args:
        folder: The folder.
        model: The exported model.
        processor: Its processor, with the tiling that was exported.
        tiling_costs: A table of what another tiling costs, where the model was trained with another.
    """
    config = model.config
    source = files("llave_hf.checkpoints.stock").joinpath("serving.md.jinja").read_text(encoding="utf-8")
    environment = jinja2.Environment(keep_trailing_newline=True, trim_blocks=True, autoescape=False)
    page = environment.from_string(source).render(
        command=serving_command(folder, model, processor),
        folder=shlex.quote(str(folder)),
        limits=engine_limits(config, processor),
        linear=processor.backbone in _LINEAR,
        dimensions=config.matryoshka_dimensions,
        size=config.hidden_size,
        max_length=longest(config, processor),
        differences=differences(config, processor),
        tiling_costs=tiling_costs,
    )
    (folder / FILE).write_text(page, encoding="utf-8")


def longest(config: LlaveConfig, processor: LlaveProcessor) -> int:
    """The longest sequence in tokens, which the server must be told: by itself it would take the decoder's."""
    return min(processor.max_length, config.get_text_config().max_position_embeddings)


def engine_limits(config: LlaveConfig, processor: LlaveProcessor) -> dict[str, int]:
    """How many pictures and videos a request may hold where vLLM would give other vectors for more."""
    limits = {}
    if processor.backbone == "llava_onevision":
        if processor.image_tiling == "anyres_single":
            limits["image"] = 1
        if config.video_newline != "one_token":
            limits["video"] = 0
    elif not _has_one_normalisation(processor):
        limits["video"] = 0
    return limits


def _has_one_normalisation(processor: LlaveProcessor) -> bool:
    """Whether pictures and videos have the same mean and deviation: vLLM takes the pictures' for both."""
    visual: Any = processor._visual
    names = ("image_mean", "image_std")
    return all(list(getattr(visual.images, name)) == list(getattr(visual.videos, name)) for name in names)


def serving_command(folder: Path, model: LlaveModel, processor: LlaveProcessor) -> str:
    """The command that starts vLLM."""
    options = [
        "--runner pooling",
        f"--dtype {str(model.dtype).removeprefix('torch.')}",
        f"--max-model-len {longest(model.config, processor)}",
    ]
    if limits := engine_limits(model.config, processor):
        options.append(f"--limit-mm-per-prompt {shlex.quote(json.dumps(limits))}")
    return f"vllm serve {shlex.quote(str(folder))} {' '.join(options)}"


def differences(config: Any, processor: LlaveProcessor) -> list[str]:
    """For which inputs stock code (transformers, sentence-transformers, vLLM) gives other vectors than this model."""
    found = [
        "A text that is too long: this model leaves out the end of the user's text. transformers cuts nothing; vLLM "
        "refuses it at --max-model-len."
    ]
    of_kind = _of_llava_onevision if processor.backbone == "llava_onevision" else _of_qwen
    found += of_kind(config, processor)
    found.append(
        "Video files: transformers and vLLM choose frames by rules of their own. A video all of whose frames are "
        "taken is the same."
    )
    found.append(
        "Literal marks in a text (`<|im_end|>`, `<image>`): vLLM, and transformers before 5.23, read them as special "
        "tokens."
    )
    found.append("Transparent pictures: vLLM lays them on white, this model drops the transparency.")
    return found


def _of_llava_onevision(config: Any, processor: LlaveProcessor) -> list[str]:
    found = []
    if processor.image_tiling == "anyres":
        found.append(
            "Several pictures in one input: transformers and sentence-transformers pad each to one square tile; vLLM "
            "tiles each, as this model does."
        )
    if processor.image_tiling == "anyres_single":
        found.append(
            "Several pictures in one input: vLLM tiles each, while this model pads each to one square tile, as "
            "transformers does. The command lets vLLM take one picture a request."
        )
    if processor.backend == "pil":
        found.append("Pictures are resized with torchvision, by this model with Pillow: vectors differ a little.")
    if config.unpad_rounding == "truncate":
        found.append("A few picture sizes (64 of 4 million): stock code rounds the unpadded size otherwise.")
    if config.video_newline != "one_token":
        found.append(
            f"Videos: stock code puts one newline after the last frame, this model `{config.video_newline}`. The "
            "command lets vLLM take no videos."
        )
    return found


def _of_qwen(config: Any, processor: LlaveProcessor) -> list[str]:
    found = []
    if processor.backbone in _TIMED:
        found.append(
            "A video as a list of frames, which have no times: transformers takes 24 a second, this model 2. Video "
            "files carry their own."
        )
    if not _has_one_normalisation(processor):
        found.append(
            "Videos: vLLM normalises them with the mean and deviation of pictures, this model with others. The "
            "command lets vLLM take no videos."
        )
    return found
