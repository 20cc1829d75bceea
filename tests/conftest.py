from __future__ import annotations

import os

import pytest
import torch
from helpers import tiny_model
from hypothesis import settings

from llave_hf import LlaveModel, LlaveProcessor

pytest_plugins = ["expected_skips"]
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
torch.set_num_threads(1)
# Times on a shared machine say nothing; a fixed seed makes a failure come back.
settings.register_profile("llave", deadline=None, derandomize=True)
settings.load_profile("llave")


@pytest.fixture(scope="session")
def tiny() -> tuple[LlaveModel, LlaveProcessor]:
    """One tiny model for all tests that do not change it."""
    return tiny_model()
