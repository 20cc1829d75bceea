"""What a run leaves in its folder: one whole model, in the dtype that its base was opened in."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from transformers import AutoModel

from llave_hf import distributed
from llave_hf.checkpoints.adapters import cast_parameters, merged
from llave_hf.model.modeling_llave import LlaveModel
from llave_hf.training.engines.engines import is_spread
from llave_hf.training.engines.whole_models import whole_models

if TYPE_CHECKING:
    from llave_hf.training.trainer import LlaveTrainer

ADAPTER_FOLDER = "adapter"


def save_finished(trainer: LlaveTrainer, open_base: Callable[[], LlaveModel]) -> None:
    """Saves what was trained into the run's folder; the trainer goes on with what was saved, or with a model that is
    spread over ranks as it is.

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
        adapted = trainer.model
        if trainer.args.should_save:
            with whole_models():
                whole = merged(open_base(), folder / ADAPTER_FOLDER)
            trainer.model = cast_parameters(whole, trainer.opened_dtype)
            trainer._save(str(folder))
        distributed.barrier()
        if is_spread(adapted):  # no rank need have room for a whole one
            trainer.model = adapted
            return
        if not trainer.args.should_save:
            with whole_models():
                trainer.model = AutoModel.from_pretrained(folder)
        trainer.model.to(trainer.args.device)
        trainer.model_wrapped = trainer.model
        return
    if not (trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled):
        whole = trainer.accelerator.unwrap_model(trainer.model, keep_fp32_wrapper=False)
        trainer.model = trainer.model_wrapped = cast_parameters(whole, trainer.opened_dtype)
    trainer.save_model()
