"""Stops a run at NaN or infinity, and keeps what it was stopped at: the batch, the weights and a report."""

from __future__ import annotations

import json
import math
import platform
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

import safetensors.torch
import torch
import transformers
from torch import nn
from transformers import TrainerState
from transformers.trainer_utils import get_last_checkpoint

from llave_hf import distributed
from llave_hf.data.samples import Pair
from llave_hf.errors import UserError
from llave_hf.losses.contrastive import HardnessWeightedContrastiveLoss
from llave_hf.losses.effective import LossStatistics
from llave_hf.model.processing_llave import LlaveProcessor

MOST_NAMED = 5  # rows in the message


class WatchedRun(Protocol):
    """What a post-mortem asks of the run that it watches.

    Attributes:
        model: That is trained.
        state: The steps that are done, and those of the whole run.
    """

    model: nn.Module
    state: TrainerState

    def save_model(self, output_dir: str) -> None:
        """Saves the model, without publishing it; all ranks call it."""

    def gradients_again(self, batches: Sequence[dict[str, Any]]) -> float | None:
        """Computes the gradient of these batches in the place of the one that is there.

        Returns:
            The loss of the last one; None where the engine cannot do it.
        """


class PostMortem:
    """Looks at the numbers of each step: at embeddings before the loss, at the gradient's norm before the update.

    Ranks agree on what they see, so all stop at the same place, and with the weights of before the step. The
    gradient's norm is not looked at with fp16, whose scaler meets infinite gradients and passes over such steps; under
    DeepSpeed it is seen after the update, which the engine makes within backward.

    Args:
        run: That is stopped.
        tasks: Names of its tasks, in the order that batches number them.
        output_dir: Its folder, which gets a `postmortem-STEP`.
        processor: The model's.
        loss: The run's; the statistics of its last step are kept.
    """

    def __init__(
        self,
        run: WatchedRun,
        tasks: Sequence[str],
        *,
        output_dir: str,
        processor: LlaveProcessor,
        loss: HardnessWeightedContrastiveLoss,
    ) -> None:
        self.run = run
        self.tasks = list(tasks)
        self.output_dir = Path(output_dir)
        self.processor = processor
        self.loss = loss
        self.batches: list[dict[str, Any]] = []
        self.embeddings: torch.Tensor | None = None
        self.loss_again: float | str | None = None  # of the last batch

    def begin(self, inputs: dict[str, Any]) -> None:
        """A batch, as the collator made it: one of those that the next update is made of."""
        self.batches.append(inputs)

    def check_embeddings(self, distinct: torch.Tensor) -> None:
        """Embeddings `(M, D)` of the batch's distinct samples; all ranks call it.

        Raises:
            UserError: On all ranks, where those of one are not finite.
        """
        self.embeddings = distinct.detach()
        if int(distributed.all_reduce_sum((~self.embeddings.isfinite()).any().long())):
            self._stop("embeddings are")

    def check_gradient(self, norm: torch.Tensor | float, *, scaled: bool) -> None:
        """The gradient's norm over all parameters, the same on all ranks, which all call it.

        Args:
            norm: As clipping found it.
            scaled: Whether a scaler (fp16) passes over steps with infinite gradients by itself.

        Raises:
            UserError: On all ranks, where it is not finite.
        """
        finite = math.isfinite(norm.item() if isinstance(norm, torch.Tensor) else norm)
        if not finite and not scaled:
            self._gradients_again()
            self._stop("the gradient is")
        self.batches.clear()

    def _gradients_again(self) -> None:
        """Clipping has made all gradients NaN: the step once more, for those of before."""
        batches, self.batches = self.batches, []  # the step begins each of them again
        loss = self.run.gradients_again(batches)
        self.loss_again = None if loss is None else _words([loss])[0]
        self.batches = batches

    def _stop(self, what: str) -> None:
        step = self.run.state.global_step + 1
        folder = self.output_dir / f"postmortem-{step}"
        if distributed.rank() == 0:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
        distributed.barrier()
        found = self._save_rank(folder)
        self.run.save_model(str(folder / "model"))
        ranks = distributed.all_gather_object(found)
        last = get_last_checkpoint(str(self.output_dir))
        command = f"python -m llave_hf.training.reproduce {folder}"
        if distributed.rank() == 0:
            about = {"step": step, "steps": self.run.state.max_steps, "not_finite": what.rpartition(" ")[0]}
            about |= {"last_checkpoint": last, "reproduce": command, "versions": _versions()}
            about |= {"tasks": self.tasks, "ranks": ranks}
            (folder / "report.json").write_text(json.dumps(about, indent=2, ensure_ascii=False), encoding="utf-8")
        distributed.barrier()
        if distributed.rank():
            raise UserError(f"rank {distributed.rank()} stops at step {step} with rank 0, which says why.")
        left = f"{last} is whole" if last else "There is no checkpoint"
        raise UserError(
            f"step {step}: {what} not finite{_where(ranks)}. The batch and the weights are in {folder}; look at them "
            f"with: {command}. {left}; lower learning_rate or mend the data, and start again with "
            "--resume_from_checkpoint."
        )

    def _save_rank(self, folder: Path) -> dict[str, Any]:
        """This rank's batches and embeddings; what is wrong with them, in a few words."""
        rank, model = distributed.rank(), self.run.model
        batches: dict[str, torch.Tensor] = {}
        rows: list[list[dict[str, Any]]] = []
        for number, batch in enumerate(self.batches):
            taken = [self.processor.normalised(part) for part in batch["micro_batches"]]
            kept = {name: batch[name] for name in batch if name != "pairs"} | {"micro_batches": taken}
            batches |= dict(_flat(f"batch.{number}", kept))
            latest = number == len(self.batches) - 1
            finite = self.embeddings.isfinite().all(1).tolist() if latest and self.embeddings is not None else None
            rows.append(_rows(batch, finite))
        tensors = batches if self.embeddings is None else {**batches, "embeddings": self.embeddings}
        safetensors.torch.save_file(
            {name: tensor.contiguous().cpu() for name, tensor in tensors.items()}, folder / f"rank-{rank}.safetensors"
        )
        named = [entry for batch in rows for entry in batch]
        bad = [f"{entry['source']} row {entry['row']}" for entry in named if entry["finite"] is False]
        (folder / f"rank-{rank}.json").write_text(json.dumps(rows, indent=1, ensure_ascii=False), encoding="utf-8")
        gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
        return {
            "rank": rank,
            "tasks": sorted({entry["source"] for entry in named}),
            "rows_not_finite": bad,
            "input_not_finite": first_not_finite(batches),
            "parameter_not_finite": first_not_finite(dict(model.named_parameters())),
            "gradient_not_finite": first_not_finite(gradients),
            "loss": self.loss_again,
            "embedding_norms": [] if self.embeddings is None else _words(self.embeddings.norm(dim=1).tolist()),
            "loss_statistics": _as_json(self.loss.statistics),
        }


def _flat(name: str, value: Any) -> list[tuple[str, torch.Tensor]]:
    """The tensors within dictionaries and lists, by dotted names."""
    if isinstance(value, torch.Tensor):
        return [(name, value)]
    if isinstance(value, Mapping):
        return [entry for key, inner in value.items() for entry in _flat(f"{name}.{key}", inner)]
    if isinstance(value, list | tuple):
        return [entry for key, inner in enumerate(value) for entry in _flat(f"{name}.{key}", inner)]
    return []


def _rows(batch: Mapping[str, Any], finite: Sequence[bool] | None) -> list[dict[str, Any]]:
    """Of each pair where it stands, what it is, and whether its embeddings are finite (None: not known)."""
    pairs: Sequence[Pair] = batch.get("pairs", ())
    indices = [batch[name].reshape(len(pairs), -1).tolist() for name in ("query_index", "document_index")]
    if "negative_index" in batch:
        indices.append(batch["negative_index"].tolist())
    rows = []
    for number, pair in enumerate(pairs):
        used = [place for index in indices for place in index[number] if place >= 0]
        known = None if finite is None else all(finite[place] for place in used)
        rows.append({"source": pair.source, "row": pair.row, "finite": known, **asdict(pair)})
    return rows


def first_not_finite(tensors: Mapping[str, torch.Tensor]) -> str | None:
    """The name of the first tensor of floats that is not finite; of a spread one, this rank's share is looked at."""
    for name, tensor in tensors.items():
        held: Any = getattr(tensor, "ds_tensor", tensor)  # ZeRO-3's share of a parameter
        held = held.to_local() if hasattr(held, "to_local") else held  # FSDP2's
        if held.is_floating_point() and not bool(held.detach().isfinite().all()):
            return name
    return None


def _as_json(statistics: LossStatistics | None) -> dict[str, Any]:
    """What was measured; of the last loss that was computed."""
    values = {} if statistics is None else asdict(statistics)
    return {name: None if value is None else _words([value])[0] for name, value in values.items()}


def _words(values: Sequence[float]) -> list[float | str]:
    """Numbers as JSON takes them: NaN and infinity, which it does not, as words."""
    return [value if math.isfinite(value) else str(value) for value in values]


def _versions() -> dict[str, str]:
    return {"python": platform.python_version(), "torch": torch.__version__, "transformers": transformers.__version__}


def _where(ranks: Sequence[Mapping[str, Any]]) -> str:
    """Ranks, tasks and rows, for a sentence."""
    rows = [(found["rank"], row) for found in ranks for row in found["rows_not_finite"]]
    parts = []
    if rows:
        named = ", ".join(row for _, row in rows[:MOST_NAMED]) + (", ..." if len(rows) > MOST_NAMED else "")
        numbers = ", ".join(map(str, sorted({rank for rank, _ in rows})))
        parts.append(f"{len(rows)} rows, of rank {numbers}: {named}")
    else:
        parts.append(f"batch of {', '.join(sorted({task for found in ranks for task in found['tasks']}))}")
    for kind in ("input", "parameter", "gradient"):
        first = next((found[f"{kind}_not_finite"] for found in ranks if found[f"{kind}_not_finite"]), None)
        if first is not None:
            parts.append(f"first such {kind}: {first}")
    return f" ({'; '.join(parts)})"
