"""How much of what goes through the model is padding."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch


class TokenCount:
    """Counts real and padded tokens; is false as long as there are none."""

    def __init__(self) -> None:
        self.real = 0
        self.padded = 0

    def __bool__(self) -> bool:
        return self.padded > 0

    def add(self, micro_batches: Iterable[Mapping[str, torch.Tensor]]) -> None:
        """Counts micro-batches; their masks should still be on the CPU."""
        for micro_batch in micro_batches:
            mask = micro_batch["attention_mask"]  # (B, T)
            self.real += int(mask.sum())
            self.padded += mask.numel()

    def take(self) -> float:
        """Real / padded tokens, 0 to 1, of all that was counted since the last time."""
        fill = self.real / self.padded
        self.real = self.padded = 0
        return round(fill, 4)
