"""Checkpoints, written atomically, with the state of all that a resumed run needs."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import Trainer, TrainingArguments
from transformers.trainer import SCHEDULER_NAME, TRAINER_STATE_NAME, TRAINING_ARGS_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, get_last_checkpoint, sort_checkpoints
from transformers.utils import logging

from llave_hf import distributed
from llave_hf.errors import UserError

from .whole_folders import UNFINISHED, clear_leftovers, publish, remove, whole_files

logger = logging.get_logger(__name__)
PROCESSES = "processes"  # beside the arguments in a checkpoint
# Arguments that begin so change what is told, kept and sent, and no weight.
_OF_NO_WEIGHT = (
    *("logging_", "log_", "save_", "eval_", "do_", "report_to", "disable_tqdm", "telemetry_", "trackio_", "project"),
    *("push_to_hub", "hub_", "dataloader_", "ddp_", "load_best_model_at_end", "metric_for_best_model", "greater_is_"),
    *("per_device_eval_", "mini_batch_", "gradient_caching", "graph_memory_gb", "vision_memory_gb", "max_bad_samples"),
)
_IN_OPTIMIZER = ("learning_rate", "muon_learning_rate", "weight_decay", "adam_")  # torch restores these with its state


class Kept(Protocol):
    """What goes on from a checkpoint besides Trainer's own; all ranks call both."""

    def save_state(self, checkpoint: str) -> None: ...

    def load_state(self, checkpoint: str | None) -> None: ...


class CheckpointingTrainer(Trainer):
    """Trainer, whose checkpoints are moved to their place when all ranks have written theirs, and older ones removed
    only then; Trainer's own writes into the place, where a killed run leaves a half that it would go on from.

    Attributes:
        kept: Goes into each checkpoint and comes back from it.
    """

    kept: tuple[Kept, ...] = ()
    _staging: str | None = None

    def _get_output_dir(self, trial: Any) -> str:
        return self._staging if self._staging is not None else super()._get_output_dir(trial)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        run = Path(super()._get_output_dir(trial))
        place = run / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        staged = run / UNFINISHED / place.name
        with _errors_told(f"the checkpoint of step {self.state.global_step}", run):
            self._once_a_disk(clear_leftovers, run)
            with self._writing_into(staged.parent):
                super()._save_checkpoint(model, trial)
            if self.state.best_model_checkpoint == str(staged):
                self.state.best_model_checkpoint = str(place)
                if self.args.should_save:
                    self.state.save_to_json(str(staged / TRAINER_STATE_NAME))
            distributed.barrier()
            self._once_a_disk(publish, staged, place)
        if self.args.should_save:
            self._remove_older(run)

    @contextmanager
    def _writing_into(self, folder: Path) -> Iterator[None]:
        """Trainer writes a checkpoint here, and removes none."""
        limit, self.args.save_total_limit = self.args.save_total_limit, None
        self._staging = str(folder)
        try:
            yield
        finally:
            self._staging = None
            self.args.save_total_limit = limit

    def _once_a_disk(self, act: Callable[..., None], *paths: Path) -> None:
        """Machines may share a disk or have their own; what the first has done, `act` does not find to do again."""
        for acts in (self.args.should_save, self.is_local_process_zero()):
            if acts:
                act(*paths)
            distributed.barrier()

    def _remove_older(self, run: Path) -> None:
        limit = self.args.save_total_limit
        if limit is None or limit <= 0:
            return
        checkpoints = sort_checkpoints(str(run))
        best = self.state.best_model_checkpoint
        stay = {checkpoints[-1], *([str(Path(best))] if best is not None else [])}
        others = [checkpoint for checkpoint in checkpoints if checkpoint not in stay]
        for checkpoint in others[: max(0, len(checkpoints) - max(limit, len(stay)))]:
            remove(Path(checkpoint))

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """And a whole model where FSDP's checkpoints are sharded, of which Trainer's own saves none."""
        super().save_model(output_dir, _internal_call)
        if not self.is_fsdp_enabled or self._staging is not None:
            return
        if "FULL_STATE_DICT" not in str(self.accelerator.state.fsdp_plugin.state_dict_type):
            whole = self.accelerator.get_state_dict(self.model)  # by all ranks; the one that saves gets it
            if self.args.should_save:
                self._save(output_dir, state_dict=whole)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        """Saves one folder for AutoModel, AutoProcessor and SentenceTransformer, with the arguments as JSON.

        Trainer's own leaves a pickle of the arguments, which a published folder must not hold, and half a file where
        it is killed. config.json comes last: where it is, the model is whole.
        """
        folder = Path(output_dir if output_dir is not None else self.args.output_dir)
        if not self.args.should_save:
            super()._save(str(folder), state_dict)
        elif self._staging is not None:
            self._save_without_pickle(folder, state_dict)
        else:
            with _errors_told("the model", folder), whole_files(folder, last="config.json") as staged:
                self._save_without_pickle(staged, state_dict)

    def _save_without_pickle(self, folder: Path, state_dict: dict[str, Any] | None) -> None:
        super()._save(str(folder), state_dict)
        (folder / TRAINING_ARGS_NAME).unlink()
        described = {"negatives_per_query": self.args.negatives_per_query, "hardware": hardware_name(self.args)}
        described[PROCESSES] = self.args.world_size
        arguments = {**self.args.to_dict(), **described}
        (folder / "training_args.json").write_text(json.dumps(arguments, indent=2, default=str), encoding="utf-8")

    def _save_rng_state(self, output_dir: str) -> None:
        """And what else each rank has to go on from: Trainer calls it for every checkpoint."""
        super()._save_rng_state(output_dir)
        for state in self.kept:
            state.save_state(output_dir)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        with self._misfits_told(resume_from_checkpoint):
            super()._load_from_checkpoint(resume_from_checkpoint, model)
        if self.is_world_process_zero() and (changed := told_of_changes(resume_from_checkpoint, self.args)):
            logger.warning(changed)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """And what else there is: Trainer calls it for every resume, also of a run whose steps were all done.

        Trainer's own begins with a new optimizer and schedule, without a word, where there are none.
        """
        if checkpoint is not None and not self.is_deepspeed_enabled and not Path(checkpoint, SCHEDULER_NAME).exists():
            raise UserError(
                f"{checkpoint} holds no optimizer and no schedule (save_only_model), so the run cannot go on from it: "
                "name another checkpoint, or give it as model and begin anew in another output_dir."
            )
        with self._misfits_told(checkpoint):
            super()._load_optimizer_and_scheduler(checkpoint)
            for state in self.kept:
                state.load_state(checkpoint)

    @contextmanager
    def _misfits_told(self, checkpoint: str | None) -> Iterator[None]:
        """Names the settings that a checkpoint was written with and the run no longer has."""
        try:
            yield
        except (ValueError, LookupError, OSError, RuntimeError, SafetensorError) as error:
            changed = ", ".join(_changed_settings(checkpoint, self.args))
            cause = f"settings that changed since: {changed}; take them back" if changed else "a file may be broken"
            raise UserError(
                f"{checkpoint} cannot be gone on from ({error}): {cause}, name an older checkpoint, or begin anew in "
                "another output_dir."
            ) from error

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        """Nothing where all steps were done when the run was stopped; Trainer's own takes one more."""
        if self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
            return
        super()._run_epoch(*args, **kwargs)


def hardware_name(args: TrainingArguments) -> str:
    """What a run computes on, for its card: `2 x NVIDIA H200`."""
    name = torch.cuda.get_device_name(args.device) if args.device.type == "cuda" else args.device.type.upper()
    return f"{args.world_size} x {name}"


def _changed_settings(checkpoint: str | None, args: TrainingArguments) -> dict[str, tuple[Any, Any]]:
    """Arguments that are not as they were, but for where the run lies: by name, what each was and what it is."""
    path = Path(str(checkpoint)) / "training_args.json"
    if not path.is_file():
        return {}
    then = json.loads(path.read_text(encoding="utf-8"))
    now = json.loads(json.dumps({**args.to_dict(), PROCESSES: args.world_size}, default=str))
    apart = {"output_dir", "logging_dir", "run_name", "resume_from_checkpoint"}
    names = sorted(name for name in now.keys() & then.keys() - apart if now[name] != then[name])
    return {name: (then[name], now[name]) for name in names}


def told_of_changes(checkpoint: str, args: TrainingArguments) -> str | None:
    """What a checkpoint was written with that is otherwise now and changes weights; None where nothing is."""
    settings = _changed_settings(checkpoint, args)
    changed = {name: values for name, values in settings.items() if not name.startswith(_OF_NO_WEIGHT)}
    if not changed:
        return None
    told = "; ".join(f"{name} {was}, now {now}" for name, (was, now) in changed.items())
    told = f"{checkpoint} was written with {told}. The run ends with other weights than one that was never stopped"
    kept = ", ".join(name for name in changed if name.startswith(_IN_OPTIMIZER))
    return f"{told}, and the optimizer that it goes on with keeps its {kept}." if kept else f"{told}."


@contextmanager
def _errors_told(what: str, run: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:  # torch and safetensors have their own for a full disk
        last = get_last_checkpoint(str(run)) if run.is_dir() else None
        left = f"{last} is whole" if last else "no checkpoint is there"
        raise UserError(
            f"{what} could not be written to {run} ({error}); {left}. Mend the cause (a full disk?) and start again "
            "with --resume_from_checkpoint."
        ) from error
