from __future__ import annotations

import pytest
from local_model import Local, saved

from llave_hf.hub.fingerprint.fingerprint import write_fingerprint


@pytest.fixture(scope="session")
def local(tmp_path_factory: pytest.TempPathFactory) -> Local:
    found = saved(tmp_path_factory.mktemp("served") / "model")
    write_fingerprint(found.folder)
    return found


@pytest.fixture(scope="session")
def one_tile(tmp_path_factory: pytest.TempPathFactory) -> Local:
    """A model that takes every picture as one tile."""
    return saved(tmp_path_factory.mktemp("one_tile") / "model", image_tiling="none")
