"""Prefix caching: tokens with which all rows begin are run once, and their keys and values serve every row.

Attention is causal, so nothing behind them changes what they are.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from transformers import DynamicCache, PreTrainedModel

from .proofs import Proofs

PRUNING, SHARING = "Leaving tokens out of the last layer", "Running the tokens that all inputs begin with once"
BOTH = "Running less than the whole language model"

KeysAndValues = list[tuple[torch.Tensor, torch.Tensor]]  # of each layer, (1, heads, P, d) for P tokens

_CACHE_NAMES = ("cache", "past_key_values")  # since transformers 5.24, and before
# What such layers keep of a prefix cannot be handed to other rows; that is so, whatever the release.
_OTHER_LAYERS = {"linear_attention", "sliding_attention", "chunked_attention"}


@dataclass(frozen=True)
class Decoder:
    """The language model of a [`LlaveModel`]: a stack of layers with a feed-forward block each.

    Attributes:
        module: Takes `inputs_embeds`, `attention_mask` `(B, T)` and, if it likes, `position_ids`.
        cache_name: The argument that takes a cache; None: rows cannot be run behind a prefix.
    """

    module: Any
    cache_name: str | None

    @classmethod
    def of(cls, model: PreTrainedModel) -> Decoder | None:
        """Of a model's language model; None where it is compiled or has another form.

        What a later release of transformers may have renamed is told, since nothing would fail by it.
        """
        module: Any = getattr(getattr(model, "backbone", None), "language_model", None)
        if any(part._compiled_call_impl is not None for part in model.modules()):
            return None
        layers = getattr(module, "layers", None)
        if not layers or not hasattr(layers[-1], "mlp"):
            Proofs.of(model).leave_out(BOTH, "it has no list `layers` whose last one has a feed-forward block `mlp`")
            return None
        kinds = set(getattr(module.config, "layer_types", None) or ["full_attention"]) - {"full_attention"}
        if kinds & _OTHER_LAYERS or getattr(module, "has_sliding_layers", False):
            return cls(module, None)
        taken = inspect.signature(module.forward).parameters
        name = next((name for name in _CACHE_NAMES if name in taken), None)
        if kinds or name is None:
            unknown = f"it has layers of an unknown kind, {', '.join(sorted(kinds))}"
            Proofs.of(model).leave_out(
                SHARING, unknown if kinds else f"it takes no argument {' or '.join(_CACHE_NAMES)}"
            )
            return cls(module, None)
        return cls(module, name)

    def run_prefix(self, prefix: torch.Tensor) -> KeysAndValues:
        """What the layers keep of token ids `(P,)`; with graph where gradients are wanted."""
        cache = DynamicCache()
        embeds = self.module.get_input_embeddings()(prefix[None])
        self.module(inputs_embeds=embeds, use_cache=True, **{str(self.cache_name): cache})
        return [(keys, values) for keys, values, *_ in cache]

    def behind_prefix(self, kwargs: dict[str, Any], prefix: KeysAndValues) -> dict[str, Any]:
        """The arguments of the module's forward, each of their rows `(B, T)` behind the same prefix."""
        mask, positions = kwargs["attention_mask"], kwargs.get("position_ids")
        length = prefix[0][0].shape[2]
        rows = [tuple(part.expand(len(mask), -1, -1, -1) for part in layer) for layer in prefix]
        behind = {
            **kwargs,
            "attention_mask": torch.cat((mask.new_ones(len(mask), length), mask), dim=1),
            str(self.cache_name): DynamicCache(rows),
        }
        if positions is not None:
            behind["position_ids"] = positions + length
        return behind


def without_first(features: Mapping[str, Any], length: int) -> dict[str, Any]:
    """A processor's output without the first tokens of each row."""
    ids = features["input_ids"]
    return {name: value[:, length:] if _is_per_token(value, ids) else value for name, value in features.items()}


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


def visual_tokens(model: PreTrainedModel) -> list[int]:
    """Tokens that a prefix must not reach: the model counts them, or looks for them, in each row."""
    config = getattr(model.config, "backbone_config", model.config)
    names = ("image_token_id", "video_token_id", "vision_start_token_id")
    return [token for name in names if (token := getattr(config, name, None)) is not None]


def last_tokens(mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Row and column of the last attended token of each row of `(B, T)`, as an index."""
    columns = mask.shape[1] - 1 - mask.flip(1).to(torch.int).argmax(1)
    return torch.arange(mask.shape[0], device=mask.device), columns


def put_back(pooled: torch.Tensor, places: tuple[torch.Tensor, torch.Tensor], shape: torch.Size) -> torch.Tensor:
    """`(B, D)` at their places among zeros `(B, T, D)`; `shape` is `(B, T)`."""
    whole = pooled.new_zeros(*shape, pooled.shape[-1])
    whole[places] = pooled
    return whole


def _is_per_token(value: Any, ids: torch.Tensor) -> bool:
    return isinstance(value, torch.Tensor) and value.shape[:2] == ids.shape
