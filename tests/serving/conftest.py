from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers import tiny_model
from running import Running, running

from llave_hf import LlaveSentenceTransformer


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model and its processor, saved."""
    path = tmp_path_factory.mktemp("served")
    for part in tiny_model(seed=3):
        part.save_pretrained(path)
    return path


@pytest.fixture(scope="session")
def encoder(folder: Path) -> LlaveSentenceTransformer:
    """The same model, opened apart from the server."""
    return LlaveSentenceTransformer(str(folder), device="cpu")


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Running]:
    with running(folder) as found:
        yield found
