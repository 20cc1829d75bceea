"""Corpora in every container, with rows that cannot be embedded, and the vectors that `encode` gives."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from helpers import picture, write_video
from tables import picture_bytes, write_archive

from llave_hf.corpus.run import EmbedReport, embed_corpus
from llave_hf.corpus.settings import EmbedSettings
from llave_hf.encoding.sentence_transformer import load_encoder

BROKEN = b"no picture at all"
WORDS = ("dog", "snow", "circle", "square", "red", "blue", "image", "small")


def caption(number: int) -> str:
    return f"a {WORDS[number % 8]} {WORDS[number // 8 % 8]} number {number}"


def embed(source: Path | str, model: Path, output: Path, **options: Any) -> EmbedReport:
    return embed_corpus(EmbedSettings(source=str(source), model=str(model), output=str(output), **options))


def read(folder: Path) -> pa.Table:
    """All files of vectors, in the order of their names."""
    return pa.concat_tables([pq.read_table(file) for file in sorted(folder.glob("*.parquet"))])


def vectors(table: pa.Table) -> list[np.ndarray | None]:
    return [None if value is None else np.asarray(value) for value in table["embedding"].to_pylist()]


def expected(model: Path, inputs: Sequence[Any]) -> np.ndarray:
    return np.asarray(load_encoder(model).encode(list(inputs), show_progress_bar=False))


def assert_vectors(table: pa.Table, wanted: np.ndarray, bad: Sequence[int] = ()) -> None:
    """Every row has its vector, but for the bad ones, which have a reason."""
    found, errors = vectors(table), table["error"].to_pylist()
    assert [row for row, vector in enumerate(found) if vector is None] == list(bad)
    assert [row for row, error in enumerate(errors) if error is not None] == list(bad)
    good = np.stack([vector for vector in found if vector is not None])
    assert np.abs(good - wanted).max() <= 1e-6


def hub_pictures(path: Path, rows: int = 6, bad: Sequence[int] = (), group: int = 4) -> list[bytes]:
    """A parquet file as the Hub's viewer has it: `id`, `caption`, and pictures with their bytes."""
    contents = [BROKEN if row in bad else picture_bytes(row) for row in range(rows)]
    pictures = pa.array(
        [{"bytes": content, "path": f"{row}.png"} for row, content in enumerate(contents)],
        pa.struct([("bytes", pa.binary()), ("path", pa.string())]),
    )
    captions = [caption(row) for row in range(rows)]
    table = pa.table({"id": list(range(rows)), "caption": captions, "image": pictures})
    pq.write_table(table, path, row_group_size=group)
    return contents


def media_folder(root: Path) -> Path:
    """Two pictures, a text, a video, a picture that is none, and a file of another kind."""
    (root / "deep").mkdir(parents=True)
    picture(seed=1).save(root / "a.png")
    picture(seed=2).save(root / "deep" / "b.jpg")
    (root / "c.txt").write_text("a dog in the snow")
    write_video(root / "d.mp4", [20, 200, 90])
    (root / "e.png").write_bytes(BROKEN)
    (root / "f.xyz").write_text("?")
    return root


def lines(path: Path, records: Sequence[dict[str, Any]]) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def archive(path: Path, rows: int = 4, bad: Sequence[int] = ()) -> list[bytes]:
    contents = [BROKEN if row in bad else picture_bytes(row) for row in range(rows)]
    members = [{"png": content, "txt": caption(row), "json": {"label": row}} for row, content in enumerate(contents)]
    write_archive(path, [(f"{row:04d}", made) for row, made in enumerate(members)])
    return contents


def saved_by_datasets(path: Path, rows: int = 5) -> list[bytes]:
    contents = [picture_bytes(row) for row in range(rows)]
    columns = {"id": list(range(rows)), "image": [{"bytes": content, "path": None} for content in contents]}
    features = datasets.Features({"id": datasets.Value("int64"), "image": datasets.Image()})
    datasets.Dataset.from_dict(columns, features=features).save_to_disk(str(path))
    return contents
