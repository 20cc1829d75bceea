"""The language model of a training step without the work that no embedding needs: same embeddings, same gradients.

- The tokens with which all samples of a micro-batch begin (the system turn, often an instruction) are run once, and
  their keys and values serve every row: attention is causal. Their gradient is the sum of the rows', as it would be.
- In the last layer only the pooled token goes through the feed-forward block: nothing reads the others.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import nn

from llave_hf.lean_decoding import (
    behind_prefix,
    decoder_of,
    last_tokens,
    put_back,
    run_prefix,
    visual_tokens,
    without_first,
)
from llave_hf.modeling_llave import LlaveModel

MicroBatch = dict[str, Any]

MIN_ROWS = 4  # samples; with fewer, a pass of its own for the prefix costs more than it saves
MIN_SHARE = 0.1  # of the tokens that the prefix must be: with a cache, attention needs an explicit mask


class LeanForward:
    """Leaves out of the forward of micro-batches, and so of their backward, what the module describes.

    Args:
        decoder: The language model; None: nothing is left out.
        stops: Ids of tokens that no prefix reaches, see [`visual_tokens`].
    """

    def __init__(self, decoder: Any = None, stops: Iterable[int] = ()) -> None:
        self.decoder = decoder
        self.stops = torch.tensor(list(stops), dtype=torch.long)
        # Rows that share work would share what dropout draws, and rows that are left out would draw nothing.
        self.shares = decoder is not None and not _has_dropout(decoder)
        self.prunes = decoder is not None and not _has_dropout(decoder.layers[-1].mlp)

    @classmethod
    def of(cls, model: LlaveModel) -> LeanForward:
        """Of a model's language model, if it has the form that this takes."""
        return cls(decoder_of(model), visual_tokens(model))

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
        checkpointed = self.decoder is not None and any(map(_is_checkpointed, self.decoder.layers))
        shares = self.shares and not checkpointed  # checkpoints drop the cache
        prunes = self.prunes and (holds_backward or not checkpointed)
        if not (shares or prunes):
            yield list(micro_batches)
            return
        prefixes = [self._prefix_of(one) if shares else one["input_ids"][0, :0] for one in micro_batches]
        rest = [without_first(one, len(prefix)) for one, prefix in zip(micro_batches, prefixes, strict=True)]
        plans = [
            _Plan(prefix, one["input_ids"].shape, last_tokens(one["attention_mask"]))
            for one, prefix in zip(rest, prefixes, strict=True)
        ]
        handles = _Hooks(self.decoder, plans).register(prunes=prunes)
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


class _Plan(NamedTuple):
    """Of one micro-batch: the ids `(P,)` of its prefix, the shape `(B, T)` of what comes behind it, and row and column
    of each pooled token there."""

    prefix: torch.Tensor
    shape: torch.Size
    pooled: tuple[torch.Tensor, torch.Tensor]


class _Hooks:
    """On the decoder and on its last feed-forward block; a run of the decoder is that of the next plan."""

    def __init__(self, decoder: Any, plans: Sequence[_Plan]) -> None:
        self.decoder = decoder
        self._plans = iter(plans)
        # The first one's already: a checkpoint may run the last layer again where the decoder does not run at all.
        self._plan: _Plan | None = plans[0]  # None: what runs is a prefix

    def register(self, *, prunes: bool) -> list[Any]:
        handles = [self.decoder.register_forward_pre_hook(self._before_decoder, with_kwargs=True)]
        if prunes:
            block = self.decoder.layers[-1].mlp
            handles += [block.register_forward_pre_hook(self._pick), block.register_forward_hook(self._put_back)]
        return handles

    def _before_decoder(
        self, decoder: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        if kwargs.get("use_cache"):  # a prefix
            return None
        plan, mask = next(self._plans), kwargs["attention_mask"]  # (B, T)
        if len(plan.prefix):
            self._plan = None
            kwargs = behind_prefix(kwargs, run_prefix(self.decoder, plan.prefix.to(mask.device)))
        self._plan = plan
        return args, kwargs

    def _pick(self, block: nn.Module, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...] | None:
        return None if self._plan is None else (args[0][self._plan.pooled],)

    def _put_back(self, block: nn.Module, args: Any, output: torch.Tensor) -> torch.Tensor | None:
        if self._plan is None:
            return None
        return put_back(output, self._plan.pooled, self._plan.shape)


def _has_dropout(module: nn.Module) -> bool:
    return any(
        (isinstance(part, nn.Dropout) and part.p > 0) or getattr(part, "attention_dropout", 0)
        for part in module.modules()
    )


def _is_checkpointed(layer: nn.Module) -> bool:
    return bool(getattr(layer, "gradient_checkpointing", False))
