"""Auto classes open LLaVE folders whichever package is imported first, and whichever class is used first."""

from __future__ import annotations

import json
import subprocess
import sys
from itertools import permutations
from pathlib import Path

import pytest
from helpers import tiny_model

TESTS = Path(__file__).parent
PUBLISHED = TESTS / "fixtures" / "model" / "tiny_2x2"
PACKAGES = ("llave_hf", "transformers", "sentence_transformers")
FIRST = ("AutoConfig", "AutoModel", "AutoProcessor", "AutoTokenizer", "pipeline", "SentenceTransformer")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("saved")
    for part in tiny_model():
        part.save_pretrained(path)
    return path


def output_of(worker: str, *arguments: str | Path) -> str:
    command = [sys.executable, str(TESTS / worker), *map(str, arguments)]
    run = subprocess.run(command, cwd=TESTS.parent, capture_output=True, text=True, timeout=300, check=False)
    assert run.returncode == 0, run.stderr
    return run.stdout.splitlines()[-1]


@pytest.mark.slow
@pytest.mark.parametrize(("packages", "first"), list(zip(permutations(PACKAGES), FIRST, strict=True)), ids=str)
def test_folders_open_in_every_order_of_imports(packages: tuple[str, ...], first: str, folder: Path) -> None:
    found = json.loads(output_of("import_worker.py", ",".join(packages), first, folder, PUBLISHED))
    assert found["opened"] == {
        "AutoConfig": "LlaveConfig",
        "AutoModel": "LlaveModel",
        "AutoProcessor": "LlaveProcessor",
        "AutoTokenizer": found["opened"]["AutoTokenizer"],
        "pipeline": "LlaveModel",
        "SentenceTransformer": "LlaveModel",
        "published AutoModel": "LlaveModel",
        "published AutoProcessor": "LlaveProcessor",
        "published AutoConfig": "LlavaQwenConfig",
    }
    assert "Token" in found["opened"]["AutoTokenizer"]
    assert all(found["same"].values()), found["same"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("before", "said"),
    [
        ("transformers", "LlaveModel AutoModel AutoProcessor LlaveConfig LlaveModel"),
        ("transformers,llave_hf", "LlaveConfig LlaveConfig LlaveModel LlaveModel LlaveModel"),
    ],
)
def test_threads_that_import_at_once_wait_for_each_other(before: str, said: str, folder: Path) -> None:
    assert output_of("import_threads_worker.py", before, folder) == said
