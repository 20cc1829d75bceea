"""What a run leaves in its folder: one whole model, in the dtype that its base was opened in."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from transformers import AutoModel

from llave_hf import distributed
from llave_hf.adapters import cast_parameters, merged
from llave_hf.modeling_llave import LlaveModel

if TYPE_CHECKING:
    from .trainer import LlaveTrainer

ADAPTER_FOLDER = "adapter"


def save_finished(trainer: LlaveTrainer, open_base: Callable[[], LlaveModel]) -> None:
    """Saves what was trained into the run's folder; the trainer goes on with what was saved.

    Trained weights are float32 and rounded here, once, to the dtype that the model was opened in. An adapter goes into
    `adapter/` and, merged into its base, into the folder: the base is opened again, whole and without quantisation.
    Under FSDP and DeepSpeed a model without adapter is written as the engine gives it.

    Args:
        trainer: Whose training is over; all ranks call this.
        open_base: Gives the model that training began with, on the CPU.
    """
    folder = Path(trainer.args.output_dir)
    if hasattr(trainer.model, "peft_config"):
        trainer.save_model(str(folder / ADAPTER_FOLDER))
        distributed.barrier()
        if trainer.args.should_save:
            trainer.model = cast_parameters(merged(open_base(), folder / ADAPTER_FOLDER), trainer.opened_dtype)
            trainer._save(str(folder))
        distributed.barrier()
        if not trainer.args.should_save:
            trainer.model = AutoModel.from_pretrained(folder)
        trainer.model.to(trainer.args.device)
        trainer.model_wrapped = trainer.model
        return
    if not (trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled):
        whole = trainer.accelerator.unwrap_model(trainer.model, keep_fp32_wrapper=False)
        trainer.model = trainer.model_wrapped = cast_parameters(whole, trainer.opened_dtype)
    trainer.save_model()
