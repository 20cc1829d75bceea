"""A folder that can be published, whole and to be spoilt; tests of other folders have their own."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from publishable import write_publishable


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_publishable(tmp_path_factory.mktemp("saved") / "model")


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    """A copy that a test may spoil."""
    return Path(shutil.copytree(saved, tmp_path / "model"))
