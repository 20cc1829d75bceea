"""The language model without the work that no embedding needs: same vectors, fewer products.

Two things are left out, both by hooks that stand only while a batch runs, so that whoever calls the model (and
whatever hooks are on it) sees the ordinary modules:

- The tokens with which all inputs begin (the system turn, an instruction) are run once. Attention is causal, so their
  keys and values are the same in every row.
- In the last layer only the pooled token goes through the feed-forward block: nothing reads the others.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn
from transformers import DynamicCache, PreTrainedModel

MIN_PREFIX = 4  # tokens; less is not worth the longer keys
MIN_ROWS = 4  # inputs; with fewer, a pass of its own for the prefix costs more than it saves

KeysAndValues = list[tuple[torch.Tensor, torch.Tensor]]  # of each layer, (1, heads, P, d) for P tokens

_LOCKS: WeakKeyDictionary[nn.Module, threading.Lock] = WeakKeyDictionary()


class LeanDecoding:
    """Runs batches through `model` without the work that no embedding needs; see the module.

    Args:
        model: A [`LlaveModel`] in evaluation mode. A model whose decoder has another form is run as it is.

    Several threads may encode with one model: transformers' modules that record hidden states must not run in two
    threads at once, so the batches of all of them take turns.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self._lock = _LOCKS.setdefault(model, threading.Lock())
        self._decoder = decoder_of(model)
        self._stops = visual_tokens(model)
        self._thread = threading.get_ident()
        self._prefix: torch.Tensor | None = None  # (P,)
        self._cache: KeysAndValues = []
        self._trimmed = False
        self._shape = torch.Size()
        self._last: tuple[torch.Tensor, torch.Tensor] | None = None  # row and column of each pooled token

    def share_prefix(self, rows: Iterable[torch.Tensor], device: torch.device) -> None:
        """Runs the tokens with which all `rows` of token ids begin, for the batches to come."""
        if self._decoder is None:
            return
        rows = list(rows)
        prefix = common_prefix(rows, self._stops)
        if len(rows) < MIN_ROWS or len(prefix) < MIN_PREFIX:
            return
        with self._lock:
            self._cache = run_prefix(self._decoder, prefix.to(device))
        self._prefix = prefix

    def run(self, features: dict[str, Any], forward: Callable[[dict[str, Any]], torch.Tensor]) -> torch.Tensor:
        """`forward` of a right-padded batch, whose shared tokens it does not see."""
        with self._lock, contextlib.ExitStack() as hooks:
            if self._decoder is not None:
                mlp = self._decoder.layers[-1].mlp
                for handle in (
                    self._decoder.register_forward_pre_hook(self._before_decoder, with_kwargs=True),
                    mlp.register_forward_pre_hook(self._before_mlp),
                    mlp.register_forward_hook(self._after_mlp),
                ):
                    hooks.callback(handle.remove)
            return forward(self._trim(features))

    def _trim(self, features: dict[str, Any]) -> dict[str, Any]:
        ids = features["input_ids"]
        length = 0 if self._prefix is None else len(self._prefix)
        self._trimmed = 0 < length < ids.shape[1] and bool((ids[:, :length] == self._prefix).all())
        if not self._trimmed:
            return features
        return without_first(features, length)

    def _before_decoder(
        self, decoder: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        if threading.get_ident() != self._thread or not isinstance(mask := kwargs.get("attention_mask"), torch.Tensor):
            return None
        self._last = last_tokens(mask)
        self._shape = mask.shape
        if not self._trimmed or self._prefix is None:
            return None
        return args, behind_prefix(kwargs, self._cache)

    def _before_mlp(self, mlp: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        if threading.get_ident() != self._thread or self._last is None:
            return None
        return (args[0][self._last][:, None],)

    def _after_mlp(self, mlp: nn.Module, args: tuple[Any, ...], output: torch.Tensor) -> torch.Tensor | None:
        if threading.get_ident() != self._thread or self._last is None:
            return None
        return put_back(output[:, 0], self._last, self._shape)


def run_prefix(decoder: Any, prefix: torch.Tensor) -> KeysAndValues:
    """What a decoder's layers keep of token ids `(P,)`; with graph where gradients are wanted."""
    cache = DynamicCache()
    embeds = decoder.get_input_embeddings()(prefix[None])
    decoder(inputs_embeds=embeds, past_key_values=cache, use_cache=True)
    return [(layer.keys, layer.values) for layer in cache.layers]


def behind_prefix(kwargs: dict[str, Any], prefix: KeysAndValues) -> dict[str, Any]:
    """The arguments of a decoder's forward, each of their rows `(B, T)` behind the same prefix."""
    mask, length = kwargs["attention_mask"], prefix[0][0].shape[2]
    rows = [tuple(part.expand(len(mask), -1, -1, -1) for part in layer) for layer in prefix]
    return {
        **kwargs,
        "attention_mask": torch.cat((mask.new_ones(len(mask), length), mask), dim=1),
        "position_ids": kwargs["position_ids"] + length,
        "past_key_values": DynamicCache(rows),
    }


def without_first(features: Mapping[str, Any], length: int) -> dict[str, Any]:
    """A processor's output without the first tokens of each row."""
    ids = features["input_ids"]
    return {name: value[:, length:] if _is_per_token(value, ids) else value for name, value in features.items()}


def put_back(pooled: torch.Tensor, places: tuple[torch.Tensor, torch.Tensor], shape: torch.Size) -> torch.Tensor:
    """`(B, D)` at their places among zeros `(B, T, D)`; `shape` is `(B, T)`."""
    whole = pooled.new_zeros(*shape, pooled.shape[-1])
    whole[places] = pooled
    return whole


def common_prefix(rows: Iterable[torch.Tensor], stops: Iterable[int] = ()) -> torch.Tensor:
    """The ids with which all rows begin, short of the whole of any row and of the first id in `stops`."""
    prefix: torch.Tensor | None = None
    for row in rows:
        if prefix is None:
            prefix = row[:-1]
            continue
        width = min(len(prefix), len(row) - 1)
        differs = (prefix[:width] != row[:width]).nonzero()
        prefix = prefix[: int(differs[0]) if len(differs) else width]
    if prefix is None:
        return torch.empty(0, dtype=torch.long)
    at = torch.isin(prefix, torch.tensor(list(stops), dtype=prefix.dtype)).nonzero()
    return prefix[: int(at[0])] if len(at) else prefix


def decoder_of(model: PreTrainedModel) -> Any:
    """The language model, where it is a stack of layers with full attention and a feed-forward block each."""
    decoder = getattr(getattr(model, "backbone", None), "language_model", None)
    layers = getattr(decoder, "layers", None)
    compiled = any(module._compiled_call_impl is not None for module in model.modules())
    if compiled or not layers or not hasattr(layers[-1], "mlp") or getattr(decoder, "has_sliding_layers", False):
        return None
    return decoder


def visual_tokens(model: PreTrainedModel) -> list[int]:
    """Tokens that a prefix must not reach: the model counts them, or looks for them, in each row."""
    config = getattr(model.config, "backbone_config", model.config)
    names = ("image_token_id", "video_token_id", "vision_start_token_id")
    return [token for name in names if (token := getattr(config, name, None)) is not None]


def last_tokens(mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    columns = mask.shape[1] - 1 - mask.flip(1).to(torch.int).argmax(1)
    return torch.arange(mask.shape[0], device=mask.device), columns


def _is_per_token(value: Any, ids: torch.Tensor) -> bool:
    return isinstance(value, torch.Tensor) and value.shape[:2] == ids.shape
