"""`LlaveEmbedder`: each kind of batch comes back as it came, with vectors and with reasons where there are none."""

from __future__ import annotations

import io
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from corpus_helpers import BROKEN, caption, expected
from PIL import Image
from tables import picture_bytes

from llave_hf import LlaveEmbedder
from llave_hf.corpus import embedder as module
from llave_hf.errors import UserError

ROWS, BAD = 6, 4
CONTENTS = [BROKEN if row == BAD else picture_bytes(row) for row in range(ROWS)]
INPUT = {"text": "Which? {caption}", "image": "bytes"}
IDS, CAPTIONS = list(range(ROWS)), [caption(row) for row in range(ROWS)]


def objects(values: list[Any]) -> np.ndarray:
    made = np.empty(len(values), dtype=object)
    made[:] = values
    return made


def arrow() -> pa.Table:
    return pa.table({"id": IDS, "caption": CAPTIONS, "bytes": pa.array(CONTENTS, pa.binary())})


def numpy_columns() -> dict[str, np.ndarray]:
    return {"id": np.array(IDS), "caption": objects(CAPTIONS), "bytes": objects(CONTENTS)}


BATCHES = {
    "table": arrow,
    "record batch": lambda: arrow().to_batches()[0],
    "numpy": numpy_columns,
    "lists": lambda: {"id": IDS, "caption": CAPTIONS, "bytes": CONTENTS},
    "pandas": lambda: pd.DataFrame({"id": IDS, "caption": CAPTIONS, "bytes": CONTENTS}),
}


@pytest.fixture(scope="module")
def wanted(model: Path) -> np.ndarray:
    inputs = [{"text": f"Which? {CAPTIONS[row]}", "image": CONTENTS[row]} for row in range(ROWS) if row != BAD]
    return expected(model, inputs)


def check(made: Any, wanted: np.ndarray) -> None:
    embeddings = made["embedding"]
    embeddings = embeddings.to_pylist() if isinstance(embeddings, (pa.ChunkedArray, pa.Array)) else list(embeddings)
    errors = made["error"].to_pylist() if hasattr(made["error"], "to_pylist") else list(made["error"])
    assert [row for row, vector in enumerate(embeddings) if vector is None] == [BAD]
    assert [row for row, error in enumerate(errors) if error is not None] == [BAD]
    assert "row 4, column 'bytes'" in errors[BAD] or "no readable picture" in errors[BAD]
    good = np.stack([np.asarray(vector) for vector in embeddings if vector is not None])
    assert np.abs(good - wanted).max() <= 1e-6


@pytest.mark.parametrize("kind", BATCHES)
def test_each_kind_of_batch_comes_back(kind: str, model: Path, wanted: np.ndarray) -> None:
    batch = BATCHES[kind]()
    made = pickle.loads(pickle.dumps(LlaveEmbedder(str(model), input=INPUT)))(batch)
    assert type(made) is type(batch)
    names = list(made.schema.names if isinstance(made, (pa.Table, pa.RecordBatch)) else made)
    assert names == ["id", "caption", "embedding", "error"]
    check(made, wanted)
    assert [int(value) for value in made["id"].to_pylist()] == IDS if kind == "table" else True


def test_an_iterator_of_record_batches_as_spark_hands_it_over(model: Path, wanted: np.ndarray) -> None:
    embed = LlaveEmbedder(str(model), input=INPUT, columns=["id"], fixed_size=False)
    made = pa.Table.from_batches(list(embed(iter(arrow().to_batches(max_chunksize=4)))))
    assert made.column_names == ["id", "embedding", "error"] and made.schema.field("embedding").type == pa.list_(
        pa.float32()
    )
    check(made, wanted)


def test_datasets_map(model: Path, wanted: np.ndarray) -> None:
    rows = datasets.Dataset.from_dict({"id": IDS, "caption": CAPTIONS, "bytes": CONTENTS})
    embed = LlaveEmbedder(str(model), input=INPUT)
    made = rows.with_format("arrow").map(embed, batched=True, batch_size=2, remove_columns=["bytes"])
    assert made.column_names == ["id", "caption", "embedding", "error"]
    check(made[:], wanted)


def test_pictures_that_are_open_and_several_in_a_row(model: Path) -> None:
    opened = [Image.open(io.BytesIO(picture_bytes(row))) for row in range(3)]
    embed = LlaveEmbedder(str(model), input={"image": "image"})
    for given in (opened, [np.asarray(one) for one in opened], np.stack([np.asarray(one) for one in opened])):
        made = embed({"image": given, "id": np.arange(3)})
        assert set(made) == {"id", "embedding", "error"} and list(made["error"]) == [None] * 3
        found = np.stack(list(made["embedding"]))
        assert np.abs(found - expected(model, [{"image": one} for one in opened])).max() <= 1e-6
    pairs = [[picture_bytes(1), picture_bytes(2)], [], None]
    made = embed({"image": pairs})
    assert np.abs(made["embedding"][0] - expected(model, [{"image": pairs[0]}])[0]).max() <= 1e-6
    assert made["embedding"][1] is None and "neither text nor medium" in made["error"][1] == made["error"][2]


def test_a_process_opens_a_model_once(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = []
    real = module.CorpusModel
    monkeypatch.setattr(module, "CorpusModel", lambda *args, **kwargs: opened.append(args) or real(*args, **kwargs))
    monkeypatch.setattr(module, "_models", {})
    for dimensions in (8, 16):
        made = LlaveEmbedder(str(model), dimensions=dimensions)({"text": ["a dog"]})
        assert made["embedding"][0].shape == (dimensions,)
    assert len(opened) == 1


def test_precisions_and_mistakes(model: Path) -> None:
    made = LlaveEmbedder(str(model), precision="ubinary")(pa.table({"text": ["a dog", ""]}))
    assert made.schema.field("embedding").type == pa.list_(pa.uint8(), 3) and made["embedding"][1].as_py() is None
    ranges = [[-1.0] * 24, [1.0] * 24]
    made = LlaveEmbedder(str(model), precision="int8", ranges=ranges)({"text": ["a dog"]})
    restored = (made["embedding"][0].astype(float) + 128) * 2 / 255 - 1
    assert np.abs(restored - expected(model, ["a dog"])[0]).max() <= 2 / 255
    for arguments, message in (
        ({"precision": "int8"}, "int8 needs ranges"),
        ({"precision": "int4"}, "choose one of"),
        ({"columns": ["id"]}, "there is no 'id'"),
        ({"input": "{txt}"}, "no column 'txt'"),
    ):
        with pytest.raises(UserError, match=message):
            LlaveEmbedder(str(model), **arguments)({"text": ["a dog"]})
    with pytest.raises(TypeError, match="a batch is a list"):
        LlaveEmbedder(str(model))(["a dog"])


def test_making_one_opens_nothing() -> None:
    """What a driver does that has no GPU and no time."""
    code = "import sys, llave_hf; assert 'pyarrow' not in sys.modules; llave_hf.LlaveEmbedder('owner/model')"
    subprocess.run([sys.executable, "-c", code], check=True)
