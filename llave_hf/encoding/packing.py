"""Texts of unlike lengths in one row, one behind the other, in place of padding each to the longest.

A mask keeps their attention apart. Nothing but attention looks at other tokens, and positions are each text's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import DynamicCache

from .shared_prefix import KeysAndValues

MOST_PACKED = 512  # tokens: attention over all of them costs their square
LEAST_PADDING = 1 / 8  # of the tokens; less padding costs no more than the mask


def is_worth_packing(lengths: Sequence[int]) -> bool:
    """Whether rows of so many tokens each run faster packed than padded, on a CPU."""
    tokens = sum(lengths)
    return tokens <= MOST_PACKED and max(lengths) * len(lengths) - tokens > LEAST_PADDING * tokens


def takes_packed(module: Any) -> bool:
    """Whether a decoder's attention takes a mask of its own for each pair of tokens."""
    return getattr(module.config, "_attn_implementation", None) == "sdpa"


@dataclass(frozen=True)
class Packing:
    """Where the N tokens of a padded batch `(B, T)` are in one row `(1, N)`.

    Attributes:
        kept: `(B, T)`, true where a token counts.
    """

    kept: torch.Tensor

    @property
    def shape(self) -> torch.Size:
        """Of the row, `(1, N)`."""
        return torch.Size((1, int(self.kept.sum())))

    @property
    def last(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Row and column of each text's last token, as an index into the row."""
        ends = self.kept.sum(1).cumsum(0) - 1
        return torch.zeros_like(ends), ends

    def arguments(self, kwargs: dict[str, Any], prefix: KeysAndValues, cache_name: str) -> dict[str, Any]:
        """A decoder's arguments for the row.

        Args:
            kwargs: For the padded batch, behind the prefix.
            prefix: Keys and values that stand before every text; may be empty.
            cache_name: The decoder's argument that takes them.
        """
        owners, columns = self.kept.nonzero(as_tuple=True)
        sees = (owners[:, None] == owners) & (columns[:, None] >= columns)
        length = prefix[0][0].shape[2] if prefix else 0
        mask = torch.cat((sees.new_ones(len(owners), length), sees), dim=1)
        positions = kwargs.get("position_ids")
        # Qwen-VL's have a dimension before those of the batch.
        positions = columns.expand(1, -1) if positions is None else positions[..., self.kept].unsqueeze(-2)
        packed = {
            **kwargs,
            "inputs_embeds": kwargs["inputs_embeds"][self.kept][None],
            "attention_mask": mask[None, None],
            "position_ids": positions + length,
        }
        if prefix:
            packed[cache_name] = DynamicCache(list(prefix))
        return packed

    def unpacked(self, hidden: torch.Tensor) -> torch.Tensor:
        """`(1, N, D)` as the padded batch `(B, T, D)`, with zeros where there is padding."""
        padded = hidden.new_zeros(*self.kept.shape, hidden.shape[-1])
        padded[self.kept] = hidden[0]
        return padded
