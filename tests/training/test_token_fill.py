"""How much of the batches is padding."""

from __future__ import annotations

import torch

from llave_hf.training.batches import TokenCount


def test_real_tokens_are_counted_against_all_since_the_last_time() -> None:
    count = TokenCount()
    assert not count
    count.add([{"attention_mask": torch.tensor([[1, 1, 1, 0], [1, 0, 0, 0]])}, {"attention_mask": torch.ones(1, 2)}])
    assert count
    assert count.take() == 0.6
    assert not count
