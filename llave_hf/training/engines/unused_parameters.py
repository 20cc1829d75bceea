"""Whether a step can leave trained parameters without gradient, which DistributedDataParallel has to be told."""

from __future__ import annotations

from typing import Any

from llave_hf.data.rows.tasks import PairDataset
from llave_hf.model.modeling_llave import LlaveModel
from llave_hf.training.recipe.arguments import LlaveTrainingArguments
from llave_hf.training.tuning.parts import part_parameters


def can_leave_parameters_unused(model: LlaveModel, args: LlaveTrainingArguments, dataset: Any) -> bool:
    """True where one rank may see a batch of texts alone, and the vision tower or the projector is trained.

    Where it is False, the graph need not be searched in each step.

    Args:
        model: Without wrappers, its frozen parts frozen.
        args: Of the run.
        dataset: Its pairs; of a stream nothing is known beforehand.
    """
    visual = [*part_parameters(model, "vision_tower"), *part_parameters(model, "projector")]
    if not any(parameter.requires_grad for parameter in visual):
        return False
    if args.caches_gradients or args.on_bad_sample == "skip":  # a last micro-batch, or what is left, may be texts
        return True
    if getattr(model.config, "video_newline", None) == "no_token":  # videos leave LLaVA-OneVision's newline out
        return True
    return not (isinstance(dataset, PairDataset) and dataset.all_have_media())
