from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).parents[1] / "training"))  # step_helpers


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> str:
    """Where these tests run: a GPU, or, to try every line of them, what LLAVE_TEST_DEVICE says.

    float32 is float32: cuDNN would take ten bits of it for a patch embedding's convolution.
    """
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    chosen = os.environ.get("LLAVE_TEST_DEVICE", "cuda")
    if chosen == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    return chosen
