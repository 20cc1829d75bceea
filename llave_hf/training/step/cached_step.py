"""Gradient caching as a step of LlaveTrainer: what accelerate, the engines and a frozen tower ask of it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from accelerate.utils import DistributedType
from torch import nn

from llave_hf.training.engines.engines import Engine
from llave_hf.training.tuning.parts import part_parameters

from .grad_cache import Part, cached_backward
from .graph_memory import GIB, GraphMemory
from .lockstep import order_parts, step_engine
from .tower_memory import TowerMemory
from .trial import MicroBatch, kind_of

if TYPE_CHECKING:
    from llave_hf.training.trainer import LlaveTrainer


class CachedStep:
    """Forward and backward of one batch, micro-batch by micro-batch.

    DDP: gradients pile up on each rank and are exchanged in the backward of the last micro-batch, also those of
    parameters that it does not use (`find_unused_parameters`, the default here; without it the last micro-batch must
    use all of them), so that one keeps no graph.

    FSDP: gradients are reduced and scattered in each backward. `no_sync` would hold whole gradients, which is what
    sharding avoids, and accelerate's turns reduction on again when it ends, also inside another. DeepSpeed: its engine
    steps where accelerate says that gradients are synchronised, so only the last micro-batch says so. Under both,
    ranks run equally many micro-batches of each kind, with fillers of zero gradient, and no micro-batch keeps its
    graph: DeepSpeed counts a backward by the forward before it. Where parameters are spread over ranks, a frozen tower
    runs twice.

    Args:
        trainer: Whose model, processor and accelerator are used.
    """

    def __init__(self, trainer: LlaveTrainer) -> None:
        self.trainer = trainer
        self.accelerator = trainer.accelerator
        kind = self.accelerator.distributed_type
        self.deepspeed = kind == DistributedType.DEEPSPEED
        model = trainer.model
        engine = Engine.of(trainer)
        self.sharded = engine.spreads
        self.engine = engine_of_step(trainer)
        keeps = not engine.spreads and not trainer.args.torch_compile
        budget = trainer.args.vision_memory_gb * GIB if keeps else 0
        self.tower = TowerMemory.of(model, budget)
        self.suits: dict[tuple[str, ...], bool] = {}  # whether it may keep what a kind of micro-batch gives
        twice = not self.tower.layers
        self.graphs = None if engine.alike else GraphMemory(model.config, trainer.args, tower_runs_twice=twice)

    def __call__(
        self,
        model: nn.Module,
        micro_batches: Sequence[MicroBatch],
        loss_of: Callable[[torch.Tensor], torch.Tensor],
    ) -> torch.Tensor:
        """Adds the gradient of `loss_of` (embeddings `(M, D)` -> scalar) to the parameters'; returns the loss.

        Args:
            model: As Trainer wrapped it.
            micro_batches: On the CPU; one at a time goes to the device.
            loss_of: Already divided by the accumulation steps.
        """
        device = self.trainer.args.device

        def embed(micro_batch: MicroBatch) -> torch.Tensor:
            return model(micro_batches=[self.trainer.model_input(micro_batch)]).embeddings

        tower = self.tower if all(map(self._suits, micro_batches)) else TowerMemory.none()
        parts = order_parts(micro_batches, self.trainer.processing_class, self.engine, device=device)
        return cached_backward(
            parts,
            embed=embed,
            loss_of=loss_of,
            backward=self._backward,
            device=device,
            without_reduction=lambda: self._without_reduction(model),
            tower=tower,
            lean=self.trainer.lean,
            keeps=self._keeps(parts, reduces_last=hasattr(model, "no_sync")),
        )

    def _suits(self, micro_batch: MicroBatch) -> bool:
        kind = kind_of(micro_batch)
        if kind not in self.suits:
            self.suits[kind] = self.tower.suits(self.trainer.model, self.trainer.model_input(micro_batch))
        return self.suits[kind]

    def _keeps(self, parts: Sequence[Part], *, reduces_last: bool) -> Collection[int]:
        """Numbers of the parts that keep their graph; never of the one that exchanges gradients."""
        if self.graphs is None:
            return ()
        return self.graphs.chosen([part.inputs for part in parts], but_last=reduces_last)

    def _backward(self, scalar: torch.Tensor) -> None:
        # DeepSpeed would divide by the accumulation steps once more.
        options: dict[str, Any] = {"scale_wrt_gas": False} if self.deepspeed else {}
        self.accelerator.backward(scalar, **options)

    def _without_reduction(self, model: nn.Module) -> AbstractContextManager[Any]:
        if self.deepspeed:
            return self._unsynchronised()
        # Not accelerate's no_sync, which does nothing where one process alone wraps its model in DDP.
        return nullcontext() if self.sharded else getattr(model, "no_sync", nullcontext)()

    @contextmanager
    def _unsynchronised(self) -> Iterator[None]:
        state = self.accelerator.gradient_state
        before = state.sync_gradients
        state._set_sync_gradients(False)
        try:
            yield
        finally:
            state._set_sync_gradients(before)


def engine_of_step(trainer: LlaveTrainer) -> Engine:
    """What the engine asks of the order of micro-batches, given what is trained."""

    def trains(part: str) -> bool:
        return any(parameter.requires_grad for parameter in part_parameters(trainer.model, part))

    others = trains("projector") or trains("vision_tower")
    return step_engine(Engine.of(trainer), language_trains=trains("language_model"), others_train=others)
