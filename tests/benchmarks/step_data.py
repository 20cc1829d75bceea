"""The small model and the pairs of `step.py`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from llave_hf.checkpoints.from_scratch import build_from_scratch
from llave_hf.data.pairs import load_pairs
from llave_hf.data.rows.tasks import PairDataset
from llave_hf.data.samples import Sample
from llave_hf.data.scenes import write_scenes

WORKLOADS = {"images to texts": ("SceneCaption_i2t",), "mix": ("SceneCaption_i2t", "SceneCaption_t2i")}


# Two million parameters; tower and language model cost about as much as LLaVE-0.5B's do beside each other.
VISION = {
    "hidden_size": 128,
    "intermediate_size": 384,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "image_size": 64,
    "patch_size": 8,
}
TEXT = {
    "hidden_size": 128,
    "intermediate_size": 352,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.09,
}


def save_model(
    folder: Path, texts: list[str], vision_config: dict[str, Any] = VISION, text_config: dict[str, Any] = TEXT
) -> None:
    """A model with random weights that takes a picture as one tile, and its processor."""
    model, processor = build_from_scratch(
        texts,
        vocab_size=1024,
        vision_config=vision_config,
        text_config=text_config,
        processor={"image_tiling": "none"},
    )
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


def write_data(root: Path, rows: int) -> list[str]:
    """`rows` rows of each of two tasks of the built-in data, no query and no document twice; returns some texts."""
    tasks = WORKLOADS["mix"]
    write_scenes(root, train_pairs=round(8 * rows * 1.05) + 80, eval_queries=14)
    texts = []
    for task in tasks:
        (file,) = (root / "train" / task).glob("*.parquet")
        kept: dict[tuple[str, str], dict[str, str]] = {}
        for row in pq.read_table(file).to_pylist():
            kept.setdefault((row["qry"], row["pos_text"]) if "i2t" not in task else ("", row["pos_text"]), row)
        chosen = list(kept.values())[:rows]
        (root / "pairs" / task).mkdir(parents=True)
        lines = "".join(json.dumps(row) + "\n" for row in chosen)
        (root / "pairs" / task / "original.jsonl").write_text(lines, encoding="utf-8")
        texts += [row[column] for row in chosen[:400] for column in ("qry", "pos_text")]
    return texts


def open_data(root: Path, workload: str) -> PairDataset:
    return load_pairs(
        str(root / "pairs"), media_root=str(root), subsets=list(WORKLOADS[workload]), use_negatives=False
    )


def as_stock_input(sample: Sample) -> Any:
    """A sample as sentence-transformers takes it: a text, or a dictionary with the path of its picture."""
    if not sample.images:
        return sample.text
    return {"text": sample.text, "image": str(Path(sample.media_root or "") / sample.images[0])}
