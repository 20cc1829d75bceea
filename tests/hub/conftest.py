"""A folder that can be published, whole and to be spoilt; tests of other folders have their own. And a client process
of the Hub that a test file makes.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from loopback_client import Client
from loopback_hub import LoopbackHub
from publishable import write_publishable


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_publishable(tmp_path_factory.mktemp("saved") / "model")


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    """A copy that a test may spoil."""
    return Path(shutil.copytree(saved, tmp_path / "model"))


@pytest.fixture(scope="module")
def client(hub: LoopbackHub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    made = Client(hub, tmp_path_factory.mktemp("hf_home"))
    yield made
    made.process.stdin.close()  # type: ignore[union-attr]
    made.process.wait()
