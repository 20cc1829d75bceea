"""A few rows of MMEB-V2's kinds, in the columns of the published data sets and the folders of the bundled file."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from llave_hf.evaluation import load_benchmark
from llave_hf.evaluation.benchmark.raw import EvalRow
from llave_hf.evaluation.benchmark.rows import RowReader

FRAMES = "video-tasks/frames"
MARK = "<|image_1|>"


def write_rows(folder: Path, table: str, rows: list[dict[str, Any]], split: str = "test") -> None:
    (folder / table).mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), folder / table / f"{split}-00000-of-00001.parquet")


def write_frames(folder: Path, path: str, count: int = 2, green: int = 0) -> None:
    """Frames whose red is their number."""
    (folder / FRAMES / path).mkdir(parents=True, exist_ok=True)
    for number in range(count):
        Image.new("RGB", (8, 8), (number, green, 0)).save(folder / FRAMES / path / f"frame_{number + 1:04d}.png")


def picture(colour: int) -> dict[str, Any]:
    """As the Hub keeps a picture inside parquet."""
    stream = io.BytesIO()
    Image.new("RGB", (8, 8), (colour, 100, 0)).save(stream, format="PNG")
    return {"bytes": stream.getvalue(), "path": None}


def instruct_row(**changes: Any) -> dict[str, Any]:
    row = {
        "qry_inst": f"{MARK} Represent the given image for classification\n",
        "qry_text": "",
        "qry_img_path": "Set/q.png",
        "tgt_inst": "",
        "tgt_text": ["tabby cat", "dog"],
        "tgt_img_path": ["", ""],
    }
    return row | changes


def write_beir(folder: Path, split: str = "test", pages: int = 8) -> None:
    """Queries 0 to 3, of which 3 is French; page n is about query n % 4, the first page of a query twice as much."""
    languages = ["english", "english", "english", "french"]
    queries = [{"query-id": n, "query": f"question {n}", "language": languages[n]} for n in range(4)]
    corpus = [{"corpus-id": n, "image": picture(n)} for n in range(pages)]
    qrels = [{"query-id": n % 4, "corpus-id": n, "score": 2 if n < 4 else 1} for n in range(pages)]
    for table, rows in (("queries", queries), ("corpus", corpus), ("qrels", qrels)):
        write_rows(folder, table, rows, split)


def read_rows(data: Path, name: str, benchmark: str = "mmeb-v2") -> list[EvalRow]:
    """The rows of a subset of a bundled benchmark."""
    selected = load_benchmark(benchmark, data=data).select([name])
    return list(RowReader(selected).open(selected.tasks[0]).rows)
