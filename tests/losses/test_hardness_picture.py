"""The shares of the gradient that results/hardness.png shows are those of the loss."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers import results_script

from llave_hf.losses.contrastive import HardnessWeightedContrastiveLoss


@pytest.mark.parametrize("alpha", [0.0, 9.0])
def test_shares_are_the_losss_gradient(alpha: float) -> None:
    script = results_script("hardness_picture")
    noise = torch.randn(2, 12, 4, generator=torch.manual_seed(0)).double()
    near = 0.3 + noise[0]  # each query's own document is nearer than the others, by not too much
    queries, documents = torch.nn.functional.normalize(torch.stack([near, near + 0.1 * noise[1]]), dim=-1)
    queries.requires_grad_()
    loss = HardnessWeightedContrastiveLoss(
        temperature=script.TAU, hardness_strength=alpha, directions=("query_to_doc",)
    )
    (gradient,) = torch.autograd.grad(loss(queries, documents), queries)
    row, batch = 3, np.arange(12)
    scores = (queries @ documents.T)[row].detach().numpy()
    parts = script.pull(row, scores, batch, alpha)
    assert 0.01 < parts[row] < 0.9999
    signs = parts - (batch == row)
    expected = signs @ documents.numpy() / script.TAU / len(batch)
    assert gradient[row].numpy() == pytest.approx(expected, rel=1e-6, abs=1e-9)
    few = script.pull(row, scores, np.array([1, row, 5]), alpha)
    assert few.sum() == pytest.approx(1)
    assert set(np.flatnonzero(few)) <= {1, row, 5}
