"""Leaves out the work of the language model that no embedding needs: same vectors, fewer matrix products.

Three things are left out, each after it has been tried against the plain forward ([`Proofs`]):

- The tokens with which all inputs begin (the system turn, an instruction) are run once ([`Decoder`]).
- In the last layer only the pooled token goes through the feed-forward block: nothing reads the others.
- A server's texts, which come in any order, run without padding ([`Packing`]).

All are done by hooks that act in the thread that encodes a list, while it does: whoever else calls the model sees the
ordinary modules. The hooks themselves stay, since torch cannot take one away while another thread runs the module.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from .packing import Packing, is_worth_packing, takes_packed
from .proofs import Proofs
from .rows import Features, Row, join_rows
from .shared_prefix import (
    PRUNING,
    SHARING,
    Decoder,
    KeysAndValues,
    common_prefix,
    last_tokens,
    put_back,
    visual_tokens,
    without_first,
)

MIN_PREFIX = 4  # tokens; less is not worth the longer keys
MIN_ROWS = 4  # inputs; with fewer, a pass of its own for the prefix costs more than it saves
ROWS_OF_A_TRIAL = 2  # of each kind
CHEAP_TRIAL = 512  # tokens: of texts, nobody notices
ENDLESS = 1 << 40  # tokens of what never ends
MAX_TRIAL_COST = 0.1  # of the list's tokens: of large pictures, it must be worth it

PACKING = "Running texts of unlike lengths without padding"

Forward = Callable[[Features], torch.Tensor]

_HOOKING = threading.Lock()


class LeanDecoding(contextlib.AbstractContextManager["LeanDecoding"]):
    """Runs batches through `model` without the work that no embedding needs, within a `with` block; see the module.

    Args:
        model: A [`LlaveModel`] in evaluation mode. A model whose decoder has another form is run as it is.
        forward: A batch to vectors `(B, D)`, by way of the model.
        pad_token_id: Fills rows up on the right.
    """

    def __init__(self, model: PreTrainedModel, forward: Forward, pad_token_id: int) -> None:
        self._forward = forward
        self._pad_token_id = pad_token_id
        self._decoder = Decoder.of(model)
        self._proofs = Proofs.of(model)
        self._stops = visual_tokens(model)
        self._device = model.device
        self._prefix = torch.empty(0, dtype=torch.long)
        self._tokens = 0  # of the list that is encoded
        self._shares = self._prunes = self._packs = False  # in the batch that runs
        self._packing: Packing | None = None
        self._outer: LeanDecoding | None = None  # of a list that is being encoded around this one
        self._shape = torch.Size()
        self._last: tuple[torch.Tensor, torch.Tensor] | None = None  # row and column of each pooled token

    def __enter__(self) -> LeanDecoding:
        if self._decoder is not None:
            _hook(self._decoder.module)
        self._outer, _own.decoding = _own.decoding, self
        return self

    def __exit__(self, *error: object) -> None:
        _own.decoding = self._outer

    def expect(self, rows: Iterable[torch.Tensor], num_tokens: int) -> None:
        """Says what is to come, before the first batch.

        Args:
            rows: Token ids of the inputs that are known: what all of them begin with is run once.
            num_tokens: About how many tokens all inputs have: a trial must be worth its cost.
        """
        self._tokens = num_tokens
        rows = list(rows)
        prefix = common_prefix(rows, self._stops)
        if len(rows) >= MIN_ROWS and len(prefix) >= MIN_PREFIX:
            self._prefix = prefix

    def share(self, prefix: torch.Tensor) -> None:
        """Says that batches without end are to come, most of which begin with these token ids `(P,)`.

        In place of [`expect`]: what is kept of the prefix serves each of them, so that even one input gains by it.
        """
        self._tokens, self._prefix = ENDLESS, prefix

    def run(self, rows: Sequence[Row]) -> torch.Tensor:
        """The vectors of a batch."""
        ways = self._ways(rows)
        first = len(self._prefix) if ways["shares"] else 0
        # Lists are sorted by length, so that a mask would cost them more than their little padding.
        packs = self._tokens == ENDLESS and is_worth_packing([len(row) - first for row in rows])
        return self._run(rows, **ways, packs=packs and self._can_pack(rows, ways))

    def can_pack(self, rows: Sequence[Row]) -> bool:
        """Whether texts of any lengths make a batch without padding; tried with these rows, if nothing was before."""
        return self._can_pack(rows, self._ways(rows))

    def _can_pack(self, rows: Sequence[Row], ways: dict[str, bool]) -> bool:
        decoder = self._decoder
        if decoder is None or decoder.cache_name is None or not takes_packed(decoder.module):
            return False
        # A GPU is waited for where a mask is made of what it holds, and pads for little.
        if self._device.type != "cpu" or any(row.others for row in rows):
            return False
        return self._holds(PACKING, rows, **ways, packs=True)

    def _ways(self, rows: Sequence[Row]) -> dict[str, bool]:
        prunes = self._holds(PRUNING, rows, prunes=True, shares=False)
        shares = self._begins_with_prefix(rows) and self._holds(SHARING, rows, prunes=prunes, shares=True)
        return {"prunes": prunes, "shares": shares}

    def _holds(self, shortcut: str, rows: Sequence[Row], **ways: bool) -> bool:
        if self._decoder is None:
            return False
        kind, few = frozenset(_kind_of(row) for row in rows), _a_few(rows)
        # By the list alone, whatever has been tried before: equal lists get equal vectors, to the bit.
        if 2 * sum(map(len, few)) > max(CHEAP_TRIAL, MAX_TRIAL_COST * self._tokens):
            return False
        return self._proofs.holds(
            shortcut,
            kind,
            plain=lambda: list(self._run(few, prunes=False, shares=False)),
            short=lambda: list(self._run(few, **ways)),
        )

    def _begins_with_prefix(self, rows: Sequence[Row]) -> bool:
        length = len(self._prefix)
        if length == 0 or self._decoder is None or self._decoder.cache_name is None:
            return False
        ids = [row.tokens["input_ids"] for row in rows]
        return all(len(row) > length and torch.equal(row[:length], self._prefix) for row in ids)

    def _run(self, rows: Sequence[Row], *, prunes: bool, shares: bool, packs: bool = False) -> torch.Tensor:
        features = join_rows(rows, self._pad_token_id)
        if shares:
            _ = self._keys_and_values  # runs the decoder itself, which must not see this batch's settings
            features = without_first(features, len(self._prefix))
        self._prunes, self._shares, self._packs, self._last = prunes, shares, packs, None
        try:
            return self._forward(features)
        finally:
            self._prunes = self._shares = self._packs = False
            self._packing = None

    @cached_property
    def _keys_and_values(self) -> KeysAndValues:
        assert self._decoder is not None
        return self._decoder.run_prefix(self._prefix.to(self._device))

    def before_decoder(self, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]] | None:
        """Its arguments behind the shared prefix, and packed."""
        if self._decoder is None or not (self._prunes or self._shares or self._packs):
            return None
        mask = kwargs["attention_mask"]
        if self._packs:
            packing = self._packing = Packing(mask.bool())
            self._last, self._shape = packing.last, packing.shape
            prefix = self._keys_and_values if self._shares else []
            return args, packing.arguments(kwargs, prefix, str(self._decoder.cache_name))
        self._last, self._shape = last_tokens(mask), mask.shape
        if not self._shares:
            return None
        return args, self._decoder.behind_prefix(kwargs, self._keys_and_values)

    def after_decoder(self, output: Any) -> Any:
        """Its output as the padded batch."""
        if self._packing is None:
            return None
        output.last_hidden_state = self._packing.unpacked(output.last_hidden_state)
        return output

    def before_block(self, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        """Of the last block's input, the pooled tokens."""
        return (args[0][self._last][:, None],) if self._prunes and self._last is not None else None

    def after_block(self, output: torch.Tensor) -> torch.Tensor | None:
        """Its output among zeros."""
        return put_back(output[:, 0], self._last, self._shape) if self._prunes and self._last is not None else None


class _Own(threading.local):
    """The list that this thread encodes."""

    decoding: LeanDecoding | None = None


_own = _Own()


def _hook(module: Any) -> None:
    """Puts the hooks on a decoder and its last block, once; functions of this file, so that they are pickled."""
    block = module.layers[-1].mlp
    if _after_block in block._forward_hooks.values():
        return
    with _HOOKING:
        if _after_block not in block._forward_hooks.values():
            module.register_forward_pre_hook(_before_decoder, with_kwargs=True)
            module.register_forward_hook(_after_decoder)
            block.register_forward_pre_hook(_before_block)
            block.register_forward_hook(_after_block)


def _before_decoder(module: nn.Module, args: Any, kwargs: dict[str, Any] | None = None) -> Any:
    # Without kwargs where another thread runs the module while the hook is being put on it.
    return None if _own.decoding is None or kwargs is None else _own.decoding.before_decoder(args, kwargs)


def _after_decoder(module: nn.Module, args: Any, output: Any) -> Any:
    return None if _own.decoding is None else _own.decoding.after_decoder(output)


def _before_block(block: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
    return None if _own.decoding is None else _own.decoding.before_block(args)


def _after_block(block: nn.Module, args: tuple[Any, ...], output: torch.Tensor) -> torch.Tensor | None:
    return None if _own.decoding is None else _own.decoding.after_block(output)


def _kind_of(row: Row) -> tuple[str, ...]:
    return tuple(sorted(row.others))


def _a_few(rows: Sequence[Row]) -> list[Row]:
    """The shortest rows of each kind."""
    by_kind: dict[tuple[str, ...], list[Row]] = {}
    for row in sorted(rows, key=len):
        by_kind.setdefault(_kind_of(row), []).append(row)
    return [row for alike in by_kind.values() for row in alike[:ROWS_OF_A_TRIAL]]
