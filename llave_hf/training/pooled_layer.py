"""The last decoder layer's feed-forward block for pooled tokens only: the same embeddings and gradients, less work."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from llave_hf.lean_decoding import decoder_of, last_tokens
from llave_hf.modeling_llave import LlaveModel


class PooledLayer:
    """Runs one feed-forward block for the last attended token of each row; nothing reads what it gives for the others.

    Args:
        block: That of the last decoder layer; None: all tokens go through.
    """

    def __init__(self, block: nn.Module | None) -> None:
        self.block = block

    @classmethod
    def of(cls, model: LlaveModel) -> PooledLayer:
        """Of a model's decoder. With dropout in the block all tokens go through: it would draw other numbers."""
        decoder = decoder_of(model)
        block = None if decoder is None else decoder.layers[-1].mlp
        if block is not None and any(isinstance(part, nn.Dropout) and part.p > 0 for part in block.modules()):
            block = None
        return cls(block)

    @contextmanager
    def of_micro_batch(self, micro_batch: Mapping[str, Any]) -> Iterator[None]:
        """Stands around the forward of a micro-batch and around its backward, where checkpoints run it again."""
        if self.block is None:
            yield
            return
        mask = micro_batch["attention_mask"]  # (B, T)
        pooled = last_tokens(mask)

        def pick(block: nn.Module, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
            return (args[0][pooled],)

        def put_back(block: nn.Module, args: Any, output: torch.Tensor) -> torch.Tensor:
            whole = output.new_zeros(*mask.shape, output.shape[-1])
            whole[pooled] = output
            return whole

        handles = [self.block.register_forward_pre_hook(pick), self.block.register_forward_hook(put_back)]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
