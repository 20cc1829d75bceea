"""`llave embed` beside `encode` on the same list in memory, and two processes beside one.

    python tests/benchmarks/embed.py [--rows 2000] [--rounds 3]

Half of the rows are texts, half pictures with a text, in a parquet file that holds the bytes. Rounds alternate; ratios
are medians over the rounds. Opening the model is left out on both sides. Beside the clock's, ratios by the time of the
processor are given, which a machine that others use as well changes little: for two processes, the sum of their rates.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

WORDS = ("dog", "cat", "tree", "river", "house", "car", "bridge", "street", "horse", "bird", "table", "ship", "tower")
SIZES = ((320, 240), (240, 320), (224, 224), (160, 120), (250, 166))
INPUT = {"text": "{text}", "image": "image"}
PARTS = 8  # of the corpus, for two processes to share


def sentence(numbers: np.random.Generator, words: int) -> str:
    return " ".join(numbers.choice(WORDS, words))


def write_rows(path: Path, rows: int) -> list[Any]:
    """The file, and the same rows as `encode` takes them."""
    numbers = np.random.default_rng(0)
    texts, pictures = [], []
    for row in range(rows):
        texts.append(f"{sentence(numbers, int(numbers.integers(3, 60)))} {row}")
        content = None
        if row % 2:
            width, height = SIZES[row // 2 % len(SIZES)]
            coarse = numbers.integers(0, 256, (height // 16, width // 16, 3), dtype=np.uint8)
            stream = io.BytesIO()
            Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC).save(stream, "JPEG")
            content = stream.getvalue()
        pictures.append(content)
    table = pa.table({"id": list(range(rows)), "text": texts, "image": pa.array(pictures, pa.binary())})
    pq.write_table(table, path, row_group_size=100)
    return [
        {"text": text} if content is None else {"text": text, "image": content}
        for text, content in zip(texts, pictures, strict=True)
    ]


def write_model(folder: Path) -> None:
    """Some four hundred thousand parameters: what does not lie in the model weighs most."""
    from llave_hf.checkpoints.from_scratch import build_from_scratch

    vision = {"hidden_size": 48, "intermediate_size": 192, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = {"hidden_size": 96, "intermediate_size": 384, "num_hidden_layers": 3, "num_attention_heads": 4}
    for part in build_from_scratch(
        [" ".join(WORDS)] * 20,
        vocab_size=400,
        vision_config={**vision, "image_size": 56, "patch_size": 14},
        text_config={**text, "num_key_value_heads": 2},
    ):
        part.save_pretrained(folder)


def embed(root: Path, output: Path, rows_per_shard: int, rank: int = 0, processes: int = 1) -> dict[str, float]:
    """A run in this process: rows, seconds of the clock and of the processor, and when it ended."""
    from llave_hf.corpus.ranks import Ranks
    from llave_hf.corpus.run import embed_corpus
    from llave_hf.corpus.settings import EmbedSettings

    source, model = str(root / "rows.parquet"), str(root / "model")
    settings = EmbedSettings(source, model, str(output), input=INPUT, rows_per_shard=rows_per_shard, threads=1)
    report = embed_corpus(settings, ranks=Ranks(rank, processes, rank))
    made = {"rows": report.rows, "seconds": report.seconds, "processor": report.processor_seconds}
    return {**made, "ended": time.time()}


def several(root: Path, output: Path, processes: int, rows_per_shard: int) -> tuple[float, float]:
    """Rows a second of so many processes: by the clock, from the first's beginning to the last's end; by processor."""
    command = [sys.executable, __file__, "--worker", str(root), str(output), str(processes), str(rows_per_shard)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    started = [
        subprocess.Popen([*command, str(rank)], stdout=subprocess.PIPE, text=True, env=environment)
        for rank in range(processes)
    ]
    reports = [json.loads(process.communicate()[0].splitlines()[-1]) for process in started]
    worked = [report for report in reports if report["rows"]]
    rows = sum(report["rows"] for report in worked)
    began = min(report["ended"] - report["seconds"] for report in worked)
    by_clock = rows / (max(report["ended"] for report in worked) - began)
    return by_clock, sum(report["rows"] / report["processor"] for report in worked)


def compare(root: Path, rows: int, rounds: int) -> None:
    import torch

    from llave_hf.encoding.sentence_transformer import load_encoder

    torch.set_num_threads(1)
    write_model(root / "model")
    inputs = write_rows(root / "rows.parquet", rows)
    encoder = load_encoder(str(root / "model"))
    encoder.encode(inputs[:50], show_progress_bar=False)
    clock: list[float] = []
    processor: list[float] = []
    two_clock: list[float] = []
    two_processor: list[float] = []
    rates = []
    for number in range(rounds):
        began, busy = time.perf_counter(), time.process_time()
        expected = encoder.encode(inputs, show_progress_bar=False)
        by_encode, busy_encode = time.perf_counter() - began, time.process_time() - busy
        made = embed(root, root / f"one-{number}", rows_per_shard=rows)
        clock.append(by_encode / made["seconds"])
        processor.append(busy_encode / made["processor"])
        rates.append(rows / made["processor"])
        found = np.stack(pq.read_table(root / f"one-{number}" / "rows.parquet")["embedding"].to_numpy())
        difference = float(np.abs(found - expected).max())
        assert difference <= 1e-6, f"vectors differ by {difference:.1e}"
        one, two = (several(root, root / f"p{n}-{number}", n, -(-rows // PARTS)) for n in (1, 2))
        two_clock.append(two[0] / one[0])
        two_processor.append(two[1] / one[1])
    print(
        f"{rows:,} rows, half texts, half pictures with a text; medians of {rounds} rounds; {os.cpu_count()} cores, "
    )
    print(f"load {os.getloadavg()[0]:.1f}; {statistics.median(rates):.0f} rows a second of one core's processor\n")
    print("| ratio of rates | goal | by the clock | by the processor |\n|---|---:|---:|---:|")
    lines = (
        ("llave embed / encode in memory", 0.95, clock, processor),
        ("two processes / one", 1.7, two_clock, two_processor),
    )
    for name, goal, by_clock, by_processor in lines:
        print(f"| {name} | {goal} | {statistics.median(by_clock):.2f} | {statistics.median(by_processor):.2f} |")
    print(f"\nEach round: {[round(v, 2) for v in clock]}, {[round(v, 2) for v in processor]}; ", end="")
    print(f"{[round(v, 2) for v in two_clock]}, {[round(v, 2) for v in two_processor]}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--worker", nargs=5, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        root, output, processes, rows_per_shard, rank = arguments.worker
        print(json.dumps(embed(Path(root), Path(output), int(rows_per_shard), int(rank), int(processes))))
        return
    with tempfile.TemporaryDirectory() as folder:
        compare(Path(folder), arguments.rows, arguments.rounds)


if __name__ == "__main__":
    main()
