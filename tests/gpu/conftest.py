from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).parents[1] / "training"))  # step_helpers


@pytest.fixture
def device() -> str:
    """Where these tests run: a GPU, or, to try every line of them, what LLAVE_TEST_DEVICE says."""
    chosen = os.environ.get("LLAVE_TEST_DEVICE", "cuda")
    if chosen == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    return chosen
