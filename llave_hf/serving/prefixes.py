"""Tokens with which many inputs begin, run once in a server's life: the system turn, and instructions behind it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence

import torch
from transformers import PreTrainedModel

from llave_hf.encoding.lean_decoding import MIN_PREFIX, MIN_ROWS, LeanDecoding
from llave_hf.encoding.rows import Features, Row
from llave_hf.encoding.shared_prefix import common_prefix, visual_tokens

KEPT = 8  # prefixes, the last used ones
LONGEST = 512  # tokens of one, whose keys and values stay in memory
WORTH = 8  # tokens by which a longer prefix must be longer than one that is kept

_Ids = tuple[int, ...]


class Prefixes:
    """Keeps a [`LeanDecoding`] for each prefix, with the keys and values of its tokens; for one thread.

    Args:
        model, forward, pad_token_id: As [`LeanDecoding`] takes them.
    """

    def __init__(self, model: PreTrainedModel, forward: Callable[[Features], torch.Tensor], pad_token_id: int) -> None:
        self._arguments = (model, forward, pad_token_id)
        self._stops = visual_tokens(model)
        self._kept: OrderedDict[_Ids, LeanDecoding] = OrderedDict()

    def of(self, rows: Sequence[Row]) -> LeanDecoding:
        """What encodes a batch: with the longest prefix that is kept and with which all rows begin, or a new one."""
        ids = common_prefix((row.tokens["input_ids"] for row in rows), self._stops)
        shared = tuple(ids[:LONGEST].tolist())
        best = max((kept for kept in self._kept if shared[: len(kept)] == kept), key=len, default=())
        # Of few rows, the common beginning says more about them than about those that will come.
        if len(rows) >= MIN_ROWS and len(shared) - len(best) >= (WORTH if best else MIN_PREFIX):
            best = shared
        if best not in self._kept:
            lean = self._kept[best] = LeanDecoding(*self._arguments)
            lean.share(torch.tensor(best, dtype=torch.long))
            if len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        self._kept.move_to_end(best)
        return self._kept[best]
