"""Saves the finished model: adapters merged, shares gathered, in the dtype that training began from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from transformers import AutoModel, TrainingArguments

from llave_hf import distributed
from llave_hf.checkpoints.adapters import cast_parameters, merged
from llave_hf.model.modeling_llave import LlaveModel
from llave_hf.training.engines.engines import is_spread
from llave_hf.training.engines.whole_models import whole_models

ADAPTER_FOLDER = "adapter"


class FinishedRun(Protocol):
    """What saving asks of a run whose training is over; a [`Trainer`] has all of it but `opened_dtype`.

    Attributes:
        args: Its folder and device, and whether this rank writes.
        accelerator: Takes engines' wrappers off the model.
        model: That was trained, or by now the one that was saved.
        model_wrapped: The same within the engine's wrapper.
        opened_dtype: What the model was opened in.
        is_fsdp_enabled, is_deepspeed_enabled: Whether the engine gives the weights that are saved.
    """

    args: TrainingArguments
    accelerator: Accelerator
    model: Any
    model_wrapped: Any
    opened_dtype: torch.dtype
    is_fsdp_enabled: bool
    is_deepspeed_enabled: bool

    def save_model(self, output_dir: str | None = None) -> None:
        """Saves `model`, gathered from all ranks; all of them call it."""

    def _save(self, output_dir: str | None = None) -> None:
        """Saves `model` as this rank holds it."""


def save_finished(run: FinishedRun, open_base: Callable[[], LlaveModel]) -> None:
    """Saves what was trained into the run's folder; the run goes on with what was saved, or with a model that is
    spread over ranks as it is.

    Trained weights are float32 and rounded here, once, to the dtype that the model was opened in. An adapter goes into
    `adapter/` and, merged into its base, into the folder: the base is opened again, whole and without quantisation.
    Under FSDP and DeepSpeed a model without adapter is written as the engine gives it.

    Args:
        run: Whose training is over; all ranks call this.
        open_base: Gives the model that training began with, on the CPU.
    """
    folder = Path(run.args.output_dir)
    if hasattr(run.model, "peft_config"):
        run.save_model(str(folder / ADAPTER_FOLDER))
        distributed.barrier()
        adapted = run.model
        if run.args.should_save:
            with whole_models():
                whole = merged(open_base(), folder / ADAPTER_FOLDER)
            whole.config.matryoshka_dimensions = adapted.config.matryoshka_dimensions
            run.model = cast_parameters(whole, run.opened_dtype)
            run._save(str(folder))
        distributed.barrier()
        if is_spread(adapted):  # no rank need have room for a whole one
            run.model = adapted
            return
        if not run.args.should_save:
            with whole_models():
                run.model = AutoModel.from_pretrained(folder)
        run.model.to(run.args.device)
        run.model_wrapped = run.model
        return
    if not (run.is_fsdp_enabled or run.is_deepspeed_enabled):
        whole = run.accelerator.unwrap_model(run.model, keep_fp32_wrapper=False)
        run.model = run.model_wrapped = cast_parameters(whole, run.opened_dtype)
    run.save_model()
