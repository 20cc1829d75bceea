from __future__ import annotations

from pathlib import Path

import pytest
from helpers import tiny_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model and its processor, saved."""
    path = tmp_path_factory.mktemp("saved")
    model, processor = tiny_model(seed=3)
    model.save_pretrained(path)
    processor.save_pretrained(path)
    return path
