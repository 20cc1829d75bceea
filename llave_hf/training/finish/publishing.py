"""`push_to_hub` of LlaveTrainer: the finished model, through the checks of `llave push`, in one commit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from huggingface_hub import CommitInfo, constants, get_token
from transformers import Trainer
from transformers.trainer_utils import HubStrategy
from transformers.utils import logging

from llave_hf.hub.card.model_card import write_model_card
from llave_hf.hub.fingerprint.fingerprint import write_fingerprint
from llave_hf.hub.push.push import PushOptions, push
from llave_hf.runtime.processor_dtypes import opening_dtype
from llave_hf.training.engines.whole_models import whole_models

logger = logging.get_logger(__name__)


class PublishingTrainer(Trainer):
    """Trainer that publishes a described model and nothing else.

    Trainer's own makes the repository before training, writes its own card over README.md, and uploads everything in
    the folder, checkpoints' pickles with `hub_strategy` checkpoint or all_checkpoints.
    """

    def init_hf_repo(self, token: str | None = None, private: bool | None = None) -> None:
        """Checks before training what publishing will need; the repository is made when there is something to publish.

        Raises:
            ValueError: `hub_model_id`, `hub_strategy` or the token will not do.
        """
        name, strategy = self.args.hub_model_id, self.args.hub_strategy
        if not name or name.count("/") != 1:
            raise ValueError(f"push_to_hub needs hub_model_id: owner/name, not {name!r}.")
        if strategy in (HubStrategy.CHECKPOINT, HubStrategy.ALL_CHECKPOINTS):
            raise ValueError(
                f"hub_strategy {strategy.value} would publish checkpoints, which hold pickles (optimizer.pt); use "
                "hub_strategy: end, and keep checkpoints where they are."
            )
        if self.is_world_process_zero() and not (token or self.args.hub_token or get_token()):
            raise ValueError(
                "push_to_hub finds no token; log in with `hf auth login` or set HF_TOKEN, then start again."
            )
        self.hub_model_id = name
        if strategy == HubStrategy.EVERY_SAVE and self.is_world_process_zero():
            logger.info(f"{name} gets the finished model at the end; what is saved before has no card to publish.")

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """Nothing: see [`init_hf_repo`]."""

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Saves and never publishes: a folder that was saved a moment ago has no fingerprint and no card yet."""
        super().save_model(output_dir, _internal_call=True)

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Writes llave_hf's card; `license` and `language` go into its front matter."""
        if self.is_world_process_zero():
            write_model_card(self.args.output_dir, chosen={name: kwargs.get(name) for name in ("license", "language")})

    def describe(self, **kwargs: Any) -> None:
        """Writes the fingerprint and the card of the model that was saved; the first process alone does it."""
        if self.is_world_process_zero():
            # Sharded weights are whole only in the folder, and this process computes without the others. What a CPU
            # does not multiply by itself is opened from there in float32.
            sharded = self.is_fsdp_enabled or self.is_deepspeed_enabled
            model = None if sharded else self.accelerator.unwrap_model(self.model)
            if model is not None and opening_dtype(model.dtype, model.device) != model.dtype:
                model = None
            with whole_models():
                write_fingerprint(self.args.output_dir, model=model, processor=self.processing_class)
            self.create_model_card(**kwargs)

    def push_to_hub(
        self,
        commit_message: str | None = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        **kwargs: Any,
    ) -> CommitInfo | None:
        """Saves the model, writes fingerprint and card, and publishes as `llave push` does.

        Args:
            commit_message: The commit's.
            blocking: Must be True: the folder must not change while it is published.
            token: None takes `args.hub_token`, or the token of `hf auth login`.
            revision: The branch; None takes `args.hub_revision`, or main.
            private: Of a new repository; None takes `args.hub_private_repo`.
            **kwargs: `license` and `language` for the card.

        Returns:
            The commit, on the first process.
        """
        if not blocking:
            raise ValueError("LlaveTrainer publishes in one commit and waits for it; leave blocking=False out.")
        self.save_model()
        self.save_state()
        self.describe(**kwargs)
        return self.publish(commit_message, token=token, revision=revision, private=private)

    def publish(
        self,
        message: str | None = None,
        *,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
    ) -> CommitInfo | None:
        """The output folder as it is, to `args.hub_model_id`; the first process alone does it."""
        if not self.is_world_process_zero():
            return None
        self.init_hf_repo(token=token)
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        options = PushOptions(
            private=private if private is not None else self.args.hub_private_repo,
            revision=revision or self.args.hub_revision or constants.DEFAULT_REVISION,
            message=message or "End of training",
            token=token or self.args.hub_token,
            device=self.args.device.type,
        )
        with whole_models():
            return push(Path(self.args.output_dir), self.hub_model_id, options)
