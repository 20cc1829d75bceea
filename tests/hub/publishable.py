"""A model folder that can be published."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import yaml
from helpers import tiny_model

from llave_hf.hub.card.model_card import write_model_card
from llave_hf.hub.fingerprint.fingerprint import write_fingerprint


def write_publishable(root: Path) -> Path:
    """A folder as a run leaves it, with what must not be published beside what must."""
    for part in tiny_model(seed=3):
        part.save_pretrained(root)
    recipe = {
        "from_scratch": {},
        "train_data": [{"path": f"{root}/train"}],
        "temperature": 0.05,
        "output_dir": str(root),
    }
    (root / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    (root / "training_args.json").write_text(json.dumps({"output_dir": str(root), "hardware": "1 x CPU"}))
    log = [{"step": step, "loss": 3 - step / 10, "learning_rate": 1e-3} for step in range(1, 6)]
    (root / "trainer_state.json").write_text(json.dumps({"global_step": 5, "epoch": 0.5, "log_history": log}))
    (root / "checkpoint-5").mkdir()
    (root / "checkpoint-5" / "optimizer.pt").write_bytes(pickle.dumps({}))
    (root / "notes.txt").write_text("mine")
    (root / "eval").mkdir()
    (root / "eval" / "results.json").write_text(json.dumps(results(str(root))))
    write_fingerprint(root)
    write_model_card(root, chosen={"license": "apache-2.0", "language": ["en"]})
    return root


def results(model: str) -> dict[str, Any]:
    task = {"precision_at_1": 0.25, "metric": "precision_at_1", "ci95": [0.2, 0.3], "n": 40, "chance": 0.1}
    task |= {"meta_task": "retrieval", "distribution": "in"}
    found = {"model": model, "benchmark": "mmeb", "revision": "0123456789" * 4}
    return {**found, "tasks": {"MSCOCO": task}, "means": {"overall": 0.25}}
