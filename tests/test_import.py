"""`import llave_hf` is quick and pulls in nothing that plain use of a model does not need."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
HEAVY = {
    "matplotlib",
    "datasets",
    "evaluate",
    "sentence_transformers",
    "mteb",
    "torchvision",
    "accelerate",
    "av",
    "peft",
}

MEASURE = """
import json, sys, time
import torch, transformers
from transformers import AutoConfig, AutoModel, AutoProcessor
before = set(sys.modules)
start = time.process_time()
import llave_hf
seconds = time.process_time() - start
print(json.dumps({"seconds": seconds, "new": sorted({name.split(".")[0] for name in set(sys.modules) - before})}))
"""


def test_import_is_light() -> None:
    run = subprocess.run(
        [sys.executable, "-c", MEASURE], cwd=ROOT, capture_output=True, text=True, timeout=120, check=True
    )
    found = json.loads(run.stdout.splitlines()[-1])
    assert not HEAVY & set(found["new"])
    assert found["seconds"] < 3


def test_lazy_names_are_listed_and_unknown_ones_refused() -> None:
    import llave_hf

    assert set(llave_hf.__all__) <= set(dir(llave_hf))
    assert llave_hf.HardnessWeightedContrastiveLoss.__name__ == "HardnessWeightedContrastiveLoss"
    with pytest.raises(AttributeError, match="no attribute 'Nonsense'"):
        _ = llave_hf.Nonsense
