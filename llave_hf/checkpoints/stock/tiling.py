"""How stock code cuts pictures into tiles, and what it costs a model that was trained with another tiling."""

from __future__ import annotations

import torch

from llave_hf.errors import UserError
from llave_hf.hub.fingerprint.samples import affordable
from llave_hf.hub.fingerprint.stages import full_precision
from llave_hf.model.modeling_llave import LlaveModel
from llave_hf.model.processing_llave import LlaveProcessor
from llave_hf.runtime.progress import forward_bar

# Of these transformers does the second and vLLM the first; with one picture they are the same.
TILINGS = ("anyres", "anyres_single")


def refuse_tiling(tiling: str) -> None:
    """Raises UserError for a tiling that neither transformers nor a serving engine has."""
    if tiling not in TILINGS:
        raise UserError(
            f"the model sees pictures with image_tiling {tiling!r}, which stock code does not have: its pictures "
            "would get other vectors. --image_tiling anyres exports it with the tiling of serving engines and says by "
            "how much its pictures' vectors change; to lose nothing, train with image_tiling anyres."
        )


def tiling_costs(model: LlaveModel, own: LlaveProcessor, changed: LlaveProcessor) -> list[str]:
    """By how much the vectors of the fingerprint's pictures change, as lines of a table.

    Args:
        model: In evaluation mode, on the CPU.
        own: The processor that the model was trained with.
        changed: The same with another tiling.
    """
    samples = [sample for sample in affordable(model.num_parameters(), model.device.type) if sample.images]
    lines = [
        f"Another tiling ({own.image_tiling} -> {changed.image_tiling}) changes the vectors of pictures. Cosines of "
        "the model's own vectors and those of the export:"
    ]
    inputs = [(own(**sample.columns), changed(**sample.columns)) for sample in samples]
    with forward_bar(model, [made for pair in inputs for made in pair], "Comparing tilings"):
        for sample, pair in zip(samples, inputs, strict=True):
            with torch.inference_mode(), full_precision(model.device):
                before, after = (model(**made).embeddings[0].double() for made in pair)
            cosine = torch.nn.functional.cosine_similarity(before, after, dim=0)
            lines.append(f"  {sample.name:<20} {cosine:.4f}")
    return lines
