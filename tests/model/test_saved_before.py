"""A folder that an earlier version saved, before its files lay in rooms, opens with the same vectors."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

SAVED = Path(__file__).parents[1] / "fixtures" / "saved_folder"

OPEN = """
import json, sys

class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "llave_hf":
            raise ImportError("llave_hf is not here")

folder, picture, how = sys.argv[1:]
if how == "trusted":
    sys.meta_path.insert(0, Block())
else:
    import llave_hf
import torch
from sentence_transformers import SentenceTransformer
from transformers import AutoModel, AutoProcessor
torch.set_num_threads(1)
options = {"trust_remote_code": True} if how == "trusted" else {}
model = AutoModel.from_pretrained(folder, **options)
processor = AutoProcessor.from_pretrained(folder, **options)
texts = ["a dog in the snow", "", "What is in the image?"]
inputs = processor(text=texts, images=[None, picture, picture])
with torch.no_grad():
    plain = model(**inputs).embeddings
transformer = SentenceTransformer(folder, device="cpu", **options)
encoded = transformer.encode([texts[0], picture, {"image": picture, "text": texts[2]}])
print()  # transformers leaves its question on the line
print(json.dumps({"module": type(model).__module__, "plain": plain.tolist(), "encoded": encoded.tolist()}))
"""


@pytest.mark.slow
@pytest.mark.parametrize("how", ["installed", "trusted"])
def test_a_folder_saved_before_gives_its_vectors(tmp_path: Path, how: str) -> None:
    shutil.copytree(SAVED / "model", tmp_path / "model")
    environment = os.environ | {
        "HF_MODULES_CACHE": str(tmp_path / "modules"),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }
    done = subprocess.run(
        [sys.executable, "-c", OPEN, str(tmp_path / "model"), str(SAVED / "one.png"), how],
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    own = "llave_hf.model.modeling_llave" if how == "installed" else "transformers_modules"
    assert found["module"].startswith(own)
    expected = np.array(json.loads((SAVED / "vectors.json").read_text()))
    assert np.abs(np.array(found["plain"]) - expected).max() < 1e-6
    assert np.abs(np.array(found["encoded"]) - expected).max() < 1e-6
