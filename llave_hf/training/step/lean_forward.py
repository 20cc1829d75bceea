"""A leaner language model for training steps: shared first tokens run once, the last block for pooled tokens only.

Embeddings and gradients are those of the whole:

- The tokens with which all samples of a micro-batch begin (the system turn, often an instruction) are run once, and
  their keys and values serve every row: attention is causal. Their gradient is the sum of the rows', as it would be.
- In the last layer only the pooled token goes through the feed-forward block: nothing reads the others.

Each is tried first, embeddings and gradients, on the first micro-batch of each kind ([`Proofs`]).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import nn

from llave_hf.encoding.proofs import Proofs
from llave_hf.encoding.shared_prefix import (
    PRUNING,
    SHARING,
    Decoder,
    last_tokens,
    put_back,
    visual_tokens,
    without_first,
)
from llave_hf.model.modeling_llave import LlaveModel

from .trial import MicroBatch, embeddings_and_gradients, kind_of

MIN_ROWS = 4  # samples; with fewer, a pass of its own for the prefix costs more than it saves
MIN_SHARE = 0.1  # of the tokens that the prefix must be: with a cache, attention needs an explicit mask


class LeanForward:
    """Leaves out of the forward of micro-batches, and so of their backward, what the module describes.

    Args:
        model: Whose language model is meant, wrapped by PEFT or not; None: nothing is left out.
        prepare: Makes the model's input of a micro-batch, on its device; for trials.
    """

    def __init__(
        self, model: LlaveModel | None = None, prepare: Callable[[MicroBatch], MicroBatch] = lambda batch: batch
    ) -> None:
        self.model = model
        self.prepare = prepare
        self.decoder = None if model is None else Decoder.of(model)
        self.proofs = None if model is None else Proofs.of(model)
        self.stops = torch.tensor([] if model is None else visual_tokens(model), dtype=torch.long)
        # Rows that share work would share what dropout draws, and rows that are left out would draw nothing.
        module = None if self.decoder is None else self.decoder.module
        self.prunes = module is not None and not _has_dropout(module.layers[-1].mlp)
        takes_cache = self.decoder is not None and self.decoder.cache_name is not None
        self.shares = module is not None and takes_cache and not _has_dropout(module)

    @contextmanager
    def of_micro_batches(
        self, micro_batches: Sequence[MicroBatch], *, holds_backward: bool = False
    ) -> Iterator[list[MicroBatch]]:
        """Gives what the model is to embed, in this order and each once, within.

        Args:
            micro_batches: What the processor gave.
            holds_backward: Whether there is one of them and its backward runs within too, so that checkpoints that
                run the last layer again find the same.
        """
        ways = [self._ways(one, holds_backward=holds_backward) for one in micro_batches]
        with self._leaving_out(micro_batches, ways) as rest:
            yield rest

    def _ways(self, micro_batch: MicroBatch, *, holds_backward: bool) -> _Ways:
        """What may be left out of a micro-batch."""
        if self.decoder is None:
            return _Ways()
        checkpointed = any(map(_is_checkpointed, self.decoder.module.layers))
        prunes = self.prunes and (holds_backward or not checkpointed)
        prunes = prunes and self._holds(PRUNING, micro_batch, _Ways(prunes=True))
        if not self.shares or checkpointed:  # checkpoints drop the cache
            return _Ways(prunes=prunes)
        prefix = self._prefix_of(micro_batch)
        if len(prefix) and self._holds(SHARING, micro_batch, _Ways(prefix, prunes)):
            return _Ways(prefix, prunes)
        return _Ways(prunes=prunes)

    def _holds(self, shortcut: str, micro_batch: MicroBatch, ways: _Ways) -> bool:
        if self.proofs is None:
            return False

        def results(chosen: _Ways) -> list[torch.Tensor]:
            with self._leaving_out([micro_batch], [chosen]) as (inputs,):
                return embeddings_and_gradients(self.model, self.prepare(inputs))

        kind = ("training", kind_of(micro_batch))
        return self.proofs.holds(shortcut, kind, plain=lambda: results(_Ways()), short=lambda: results(ways))

    @contextmanager
    def _leaving_out(self, micro_batches: Sequence[MicroBatch], ways: Sequence[_Ways]) -> Iterator[list[MicroBatch]]:
        if self.decoder is None or not any(way.prunes or way.length for way in ways):
            yield list(micro_batches)
            return
        rest = [without_first(one, way.length) for one, way in zip(micro_batches, ways, strict=True)]
        plans = [
            _Plan(way, one["input_ids"].shape, last_tokens(one["attention_mask"]))
            for one, way in zip(rest, ways, strict=True)
        ]
        handles = _Hooks(self.decoder, plans).register()
        try:
            yield rest
        finally:
            for handle in handles:
                handle.remove()

    def _prefix_of(self, micro_batch: MicroBatch) -> torch.Tensor:
        """The ids `(P,)` that are worth sharing, short of the whole of any row."""
        ids, mask = micro_batch["input_ids"], micro_batch["attention_mask"]
        stops = torch.isin(ids[0], self.stops.to(ids.device))
        shared = (ids == ids[0]).all(0) & mask.bool().all(0) & ~stops  # (T,)
        length = min(int(shared.long().cumprod(0).sum()), int(mask.sum(1).min()) - 1)
        worth = len(ids) >= MIN_ROWS and length * len(ids) >= MIN_SHARE * int(mask.sum())
        return ids[0, : length if worth else 0]


class _Ways(NamedTuple):
    """What is left out of one micro-batch: the ids `(P,)` that its rows share, and the last block but for pooled
    tokens."""

    prefix: torch.Tensor | None = None
    prunes: bool = False

    @property
    def length(self) -> int:
        return 0 if self.prefix is None else len(self.prefix)


class _Plan(NamedTuple):
    """Of one micro-batch: what is left out, the shape `(B, T)` of what comes behind its prefix, and row and column of
    each pooled token there."""

    ways: _Ways
    shape: torch.Size
    pooled: tuple[torch.Tensor, torch.Tensor]


class _Hooks:
    """On the decoder and on its last feed-forward block; a run of the decoder is that of the next plan."""

    def __init__(self, decoder: Decoder, plans: Sequence[_Plan]) -> None:
        self._decoder = decoder
        self._plans = iter(plans)
        # The first one's already: a checkpoint may run the last layer again where the decoder does not run at all.
        self._plan: _Plan | None = plans[0]  # None: what runs is a prefix

    def register(self) -> list[Any]:
        module = self._decoder.module
        block = module.layers[-1].mlp
        return [
            module.register_forward_pre_hook(self._before_decoder, with_kwargs=True),
            block.register_forward_pre_hook(self._pick),
            block.register_forward_hook(self._put_back),
        ]

    def _before_decoder(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        if kwargs.get("use_cache"):  # a prefix
            return None
        plan, mask = next(self._plans), kwargs["attention_mask"]  # (B, T)
        prefix = plan.ways.prefix
        if prefix is not None and len(prefix):
            self._plan = None
            kwargs = self._decoder.behind_prefix(kwargs, self._decoder.run_prefix(prefix.to(mask.device)))
        self._plan = plan
        return args, kwargs

    def _pick(self, block: nn.Module, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...] | None:
        return (args[0][self._plan.pooled],) if self._plan is not None and self._plan.ways.prunes else None

    def _put_back(self, block: nn.Module, args: Any, output: torch.Tensor) -> torch.Tensor | None:
        if self._plan is None or not self._plan.ways.prunes:
            return None
        return put_back(output, self._plan.pooled, self._plan.shape)


def _has_dropout(module: nn.Module) -> bool:
    return any(
        (isinstance(part, nn.Dropout) and part.p > 0) or getattr(part, "attention_dropout", 0)
        for part in module.modules()
    )


def _is_checkpointed(layer: nn.Module) -> bool:
    return bool(getattr(layer, "gradient_checkpointing", False))
