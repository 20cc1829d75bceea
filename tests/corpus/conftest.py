from __future__ import annotations

from pathlib import Path

import pytest

from llave_hf import LlaveModel, LlaveProcessor


@pytest.fixture(scope="session")
def model(tiny: tuple[LlaveModel, LlaveProcessor], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model as a folder."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    for part in tiny:
        part.save_pretrained(folder)
    return folder
