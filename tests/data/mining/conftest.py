from __future__ import annotations

from pathlib import Path

import pytest
from helpers import tiny_model


@pytest.fixture(scope="package")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny model."""
    folder = tmp_path_factory.mktemp("model")
    for part in tiny_model(processor={"image_tiling": "none"}):
        part.save_pretrained(folder)
    return folder
