"""Activation checkpointing of chosen parts.

A checkpointed layer keeps its input alone and runs again in backward: less memory, a forward more, the same gradient.
"""

from __future__ import annotations

from typing import Any

from transformers import TrainerCallback

from llave_hf.training.recipe.arguments import LlaveTrainingArguments
from llave_hf.training.recipe.tuning import STACKS

from .parts import part_modules


class CheckpointParts(TrainerCallback):
    """Leaves checkpointing on in `checkpoint_parts` only, after Trainer has turned it on everywhere.

    Trainer also makes the outputs of embeddings want gradients, for the sake of checkpoints of another kind
    (`use_reentrant`); with these, a frozen vision tower would run backwards for nothing.
    """

    def on_train_begin(
        self, args: LlaveTrainingArguments, state: Any, control: Any, model: Any = None, **kwargs: Any
    ) -> None:
        if not args.gradient_checkpointing:
            return
        model.disable_input_require_grads()
        chosen = STACKS if args.checkpoint_parts is None else args.checkpoint_parts
        for part in set(STACKS) - set(chosen):
            for module in part_modules(model, part).values():
                if hasattr(module, "gradient_checkpointing"):
                    module.gradient_checkpointing = False  # type: ignore[assignment]
