"""A run of `llave embed` that is killed at random moments, beside one that is not.

    python tests/benchmarks/embed_killed.py [--rows 50000] [--kills 3] [--seed 0]

Short rows in four JSONL files, a tiny model, and SIGKILL while shards are being written. Afterwards every row must be
there once, with the very vector that the undisturbed run gave it. The peak memory of a run over a tenth of the rows
stands beside that of the whole.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from llave_hf.checkpoints.from_scratch import build_from_scratch

FILES = 4


def write_model(folder: Path) -> None:
    vision = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = {"hidden_size": 24, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    for part in build_from_scratch(
        ["number 1 of some rows"],
        vocab_size=300,
        vision_config={**vision, "image_size": 28, "patch_size": 7},
        text_config={**text, "num_key_value_heads": 2},
    ):
        part.save_pretrained(folder)


def write_rows(folder: Path, rows: int) -> None:
    folder.mkdir()
    for number in range(FILES):
        own = range(number * rows // FILES, (number + 1) * rows // FILES)
        text = "".join(json.dumps({"id": row, "text": f"row {row}"}) + "\n" for row in own)
        (folder / f"{number:05d}.jsonl").write_text(text)


def start(root: Path, output: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "llave_hf.embed", str(root / "rows"), "--model", str(root / "model")]
    command += ["--output", str(output), "--rows_per_shard", "1000"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)


def shards(folder: Path) -> int:
    return len(list(folder.glob("*.parquet")))


def read(folder: Path) -> pa.Table:
    return pa.concat_tables([pq.read_table(file) for file in sorted(folder.glob("*.parquet"))])


def run(root: Path, rows: int, kills: int, seed: int) -> None:
    write_model(root / "model")
    write_rows(root / "rows", rows // 10)
    start(root, root / "few").communicate()
    few = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    shutil.rmtree(root / "rows")
    write_rows(root / "rows", rows)
    print("undisturbed:", start(root, root / "undisturbed").communicate()[0].strip(), flush=True)
    most = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    print(f"peak memory: {few / 1024:.0f} MB with {rows // 10:,} rows, {most / 1024:.0f} MB with {rows:,}", flush=True)
    moments, output = random.Random(seed), root / "killed"
    for kill in range(kills):
        process = start(root, output)
        before = shards(output)
        wanted = before + moments.randint(1, max(1, shards(root / "undisturbed") // (kills + 1)))
        while shards(output) < wanted and process.poll() is None:
            time.sleep(0.001)
        time.sleep(moments.random() * 0.3)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        unfinished = len(list((output / ".work").glob("*.unfinished")))
        assert process.returncode == -signal.SIGKILL, "it ended before it was killed: give more rows"
        print(f"kill {kill + 1}: {before} -> {shards(output)} shards whole, {unfinished} begun", flush=True)
    print("resumed:", start(root, output).communicate()[0].strip())
    expected, found = read(root / "undisturbed"), read(output)
    once = found["id"].to_pylist() == list(range(rows))
    vectors = (np.stack(table["embedding"].to_numpy()) for table in (expected, found))
    equal = np.array_equal(*vectors)
    print(f"{found.num_rows:,} rows, every row once: {once}; vectors equal to the bit: {equal}")
    assert once and equal


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run(Path(folder), arguments.rows, arguments.kills, arguments.seed)


if __name__ == "__main__":
    main()
