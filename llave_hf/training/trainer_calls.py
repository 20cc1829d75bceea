"""What LlaveTrainer replaces of Trainer, and whether the Trainer that is installed still calls it.

A method that a release of transformers renames does not fail: ours stays as it is, and nobody calls it. So that is
looked for before a run starts, in the code of Trainer's methods.
"""

from __future__ import annotations

import dis
import inspect
import logging
from collections.abc import Iterator
from types import CodeType
from typing import Any

import transformers
from transformers import Trainer

from llave_hf.encoding.proofs import TESTED_TRANSFORMERS
from llave_hf.errors import UserError

logger = logging.getLogger(__name__)

# Each with what it does. Without these a run would learn something else, or could not go on from its checkpoints.
NEEDED = {
    "compute_loss": "weighs negatives by hardness",
    "training_step": "runs a batch in micro-batches",
    "get_train_dataloader": "makes batches without repeats, the same on all ranks",
    "create_optimizer": "gives each part its rate",
    "save_model": "saves the whole model, and publishes nothing unasked",
    "_save": "saves one folder for all classes",
    "_save_checkpoint": "moves a checkpoint to its place when it is whole",
    "_get_output_dir": "has a checkpoint written beside its place first",
    "_save_rng_state": "keeps what each rank goes on from",
    "_load_optimizer_and_scheduler": "goes on from what each rank kept",
    "init_hf_repo": "checks what publishing needs",
    "_push_from_checkpoint": "keeps checkpoints from being published",
}
# Without these something is missing that a person can do without.
WANTED = {
    "log": "adds telemetry to the log",
    "create_model_card": "writes the card",
    "_get_grad_norm": "stops where a gradient is not finite",
    "_load_from_checkpoint": "tells which settings changed since a checkpoint",
    "_run_epoch": "takes no step more than max_steps after a stop",
    "_track_num_input_tokens": "counts the tokens seen",
}
# Either tells Trainer to divide the loss by the accumulation steps; the second since transformers 5.19.
LOSS_SCALING = ("model_accepts_loss_kwargs", "loss_is_scaled_for_ga")

_READS = ("LOAD_ATTR", "LOAD_METHOD", "LOAD_SUPER_ATTR")  # of Python 3.10 to 3.14; the last since 3.12


def check_trainer_calls(ours: type[Trainer], installed: type[Trainer] = Trainer) -> None:
    """Refuses a Trainer that does without what LLaVE's training needs of it, and tells what else it leaves out.

    Args:
        ours: The class that replaces methods.
        installed: The class whose methods it replaces.

    Raises:
        UserError: Names the methods, what they do and the releases that call them.
    """
    read = _names_read(installed)
    missing = {name: why for name in {**NEEDED, **WANTED} if (why := _why_not_called(name, ours, installed, read))}
    if needed := {name: why for name, why in missing.items() if name in NEEDED}:
        raise UserError(f"{_told(needed)}, so training would go wrong. {_what_to_do()}")
    if not read & set(LOSS_SCALING):
        raise UserError(
            f"the Trainer of transformers {transformers.__version__} reads neither {' nor '.join(LOSS_SCALING)}, so "
            f"gradients would not be divided by gradient_accumulation_steps. {_what_to_do()}"
        )
    if missing:
        logger.warning("%s; that is left out. %s", _told(missing), _what_to_do())


def _why_not_called(name: str, ours: type[Trainer], installed: type[Trainer], read: set[str]) -> str:
    """Empty where it is called, with arguments that ours takes."""
    if not hasattr(installed, name):
        return "is gone"
    if name not in read:
        return "is not called"
    takes = inspect.signature(getattr(ours, name)).parameters
    if any(one.kind is inspect.Parameter.VAR_KEYWORD for one in takes.values()):
        return ""
    unknown = [one for one in inspect.signature(getattr(installed, name)).parameters if one not in takes]
    return f"is given {' and '.join(unknown)}" if unknown else ""


def _told(missing: dict[str, str]) -> str:
    does = {**NEEDED, **WANTED}
    each = "; ".join(f"{name} {why} (LlaveTrainer's {does[name]})" for name, why in missing.items())
    return f"the Trainer of transformers {transformers.__version__} works by other steps: {each}"


def _what_to_do() -> str:
    return f"Install a release that was tested: transformers {TESTED_TRANSFORMERS}."


def _names_read(trainer: type[Trainer]) -> set[str]:
    """Names that the methods of a class and of its bases read; a method that calls itself does not count."""
    return {
        read
        for base in inspect.getmro(trainer)
        for name, member in vars(base).items()
        for read in _names_of(member)
        if read != name
    }


def _names_of(member: Any) -> Iterator[str]:
    function = inspect.unwrap(getattr(member, "fget", None) or getattr(member, "__func__", None) or member)
    codes = [code] if isinstance(code := getattr(function, "__code__", None), CodeType) else []
    while codes:
        one = codes.pop()
        yield from (step.argval for step in dis.get_instructions(one) if step.opname in _READS)
        codes += [constant for constant in one.co_consts if isinstance(constant, CodeType)]
