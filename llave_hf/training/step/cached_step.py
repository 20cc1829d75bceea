"""One training step by gradient caching, on one process and under DDP, FSDP and DeepSpeed."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import nn

from llave_hf.model.modeling_llave import LlaveModel
from llave_hf.model.processing_llave import LlaveProcessor
from llave_hf.training.engines.engines import Engine
from llave_hf.training.recipe.arguments import LlaveTrainingArguments
from llave_hf.training.tuning.lora import without_peft
from llave_hf.training.tuning.parts import part_parameters

from .activations import cast_bytes, keeping_parts
from .grad_cache import Part, cached_backward
from .graph_memory import GIB, GraphMemory
from .lean_forward import LeanForward
from .lockstep import order_parts, step_engine
from .tower_memory import TowerMemory
from .trial import MicroBatch, kind_of


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
        model: That is trained, on its ranks; wrapped by PEFT or not, without a distributed wrapper.
        processor: The model's; makes fillers.
        accelerator: Runs backward.
        args: Device, memory budgets, and what is trained, checkpointed and computed in.
        engine: See [`engine_of_step`].
        lean: Leaves out work of the language model that no embedding needs.
        prepare: Makes the model's input of one of the collator's micro-batches, on the device.
    """

    def __init__(
        self,
        model: LlaveModel,
        processor: LlaveProcessor,
        accelerator: Accelerator,
        args: LlaveTrainingArguments,
        *,
        engine: Engine,
        lean: LeanForward,
        prepare: Callable[[MicroBatch], MicroBatch],
    ) -> None:
        self.model = model
        self.processor = processor
        self.accelerator = accelerator
        self.device = args.device
        self.engine = engine
        self.lean = lean
        self.prepare = prepare
        self.deepspeed = accelerator.distributed_type == DistributedType.DEEPSPEED
        keeps = not engine.spreads and not args.torch_compile
        self.tower = TowerMemory.of(model, args.vision_memory_gb * GIB if keeps else 0)
        self.suits: dict[tuple[str, ...], bool] = {}  # whether it may keep what a kind of micro-batch gives
        twice = not self.tower.layers
        casts = cast_bytes(without_peft(model), args, keeping_parts(args))
        self.graphs = None if engine.alike else GraphMemory(model.config, args, tower_runs_twice=twice, casts=casts)
        # Compiled code is bound to the autocast around it; DeepSpeed keeps no graph.
        self.shares_casts = not (args.torch_compile or self.deepspeed)

    def __call__(
        self,
        model: nn.Module,
        micro_batches: Sequence[MicroBatch],
        loss_of: Callable[[torch.Tensor], torch.Tensor],
    ) -> torch.Tensor:
        """Adds the gradient of `loss_of` (embeddings `(M, D)` -> scalar) to the parameters'; returns the loss.

        Args:
            model: As the engine wrapped it.
            micro_batches: On the CPU; one at a time goes to the device.
            loss_of: Already divided by the accumulation steps.
        """

        def embed(micro_batch: MicroBatch) -> torch.Tensor:
            return model(micro_batches=[self.prepare(micro_batch)]).embeddings

        tower = self.tower if all(map(self._suits, micro_batches)) else TowerMemory.none()
        parts = order_parts(micro_batches, self.processor, self.engine, device=self.device)
        return cached_backward(
            parts,
            embed=embed,
            loss_of=loss_of,
            backward=self._backward,
            device=self.device,
            without_reduction=lambda: self._without_reduction(model),
            tower=tower,
            lean=self.lean,
            keeps=self._keeps(parts, reduces_last=hasattr(model, "no_sync")),
            sharing_casts=self.accelerator.autocast if self.shares_casts else nullcontext,
        )

    def _suits(self, micro_batch: MicroBatch) -> bool:
        kind = kind_of(micro_batch)
        if kind not in self.suits:
            self.suits[kind] = self.tower.suits(self.model, self.prepare(micro_batch))
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
        return nullcontext() if self.engine.spreads else getattr(model, "no_sync", nullcontext)()

    @contextmanager
    def _unsynchronised(self) -> Iterator[None]:
        state = self.accelerator.gradient_state
        before = state.sync_gradients
        state._set_sync_gradients(False)
        try:
            yield
        finally:
            state._set_sync_gradients(before)


def engine_of_step(accelerator: Accelerator, model: LlaveModel) -> Engine:
    """What the engine asks of the order of micro-batches, given what of the model is trained."""

    def trains(part: str) -> bool:
        return any(parameter.requires_grad for parameter in part_parameters(model, part))

    others = trains("projector") or trains("vision_tower")
    return step_engine(Engine.of(accelerator, model), language_trains=trains("language_model"), others_train=others)
