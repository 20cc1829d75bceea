"""Opening and reading training data by container: parquet with paths, by description, with pictures, shards of tar.

    python tests/benchmarks/data_containers.py [--rows 200000] [--only opening] [--container tar] [--output FOLDER]

Opening: each container in two processes of its own, one after the other, with an empty cache before the first; seconds
of the processor for `load_pairs` (checks included), and the process's peak memory, less what it held before. Files of
pictures and archives are in the system's cache of the disk. Reading:
batches of pictures through two workers as training prepares them, from files and from a parquet file that `datasets`
wrote; rounds alternate, and a ratio is the median over the rounds of the workers' seconds of the processor with files
by those with the parquet file, which a busy machine does not change much.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import resource
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

PICTURES = 8000
SHARDS = 20
AGE = 60  # seconds since the archives changed; of those that are just being written nothing is kept
DESCRIPTION = {"query": "Find the picture: {caption}", "positive": {"image": "picture", "text": "\nRepresent it.\n"}}
READ_ROWS, READ_BATCH, WORKERS, ROUNDS = 192, 16, 2, 5


def encoded(seed: int, width: int, height: int, kind: str) -> bytes:
    """A picture of coarse random patches, which compresses as photographs do."""
    patches = np.random.default_rng(seed).integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(patches).resize((width, height), Image.Resampling.BICUBIC).save(stream, kind)
    return stream.getvalue()


def write_containers(root: Path, rows: int) -> dict[str, dict[str, Any]]:
    """One of each container, and what `load_pairs` takes to open it."""
    import datasets
    import pyarrow as pa
    import pyarrow.parquet as pq

    pictures = [encoded(seed, 32, 32, "JPEG") for seed in range(PICTURES)]
    (root / "images").mkdir()
    for number, picture in enumerate(pictures):
        (root / f"images/{number}.jpg").write_bytes(picture)
    captions = [f"caption {row}: a thing beside another, and what it does there" for row in range(rows)]
    paths = [f"images/{row % PICTURES}.jpg" for row in range(rows)]
    marked = ["<|image_1|>\nRepresent it.\n"] * rows
    pq.write_table(pa.table({"qry": captions, "pos_text": marked, "pos_image_path": paths}), root / "named.parquet")
    negatives = [f"['{captions[row - 1]}', '{captions[row - 2]}']" for row in range(rows)]
    pq.write_table(pa.table({"caption": captions, "picture": paths, "wrong": negatives}), root / "described.parquet")
    features = datasets.Features({"caption": datasets.Value("string"), "picture": datasets.Image()})
    inside = [{"bytes": pictures[row % PICTURES], "path": None} for row in range(rows)]
    held = datasets.Dataset.from_dict({"caption": captions, "picture": inside}, features=features)
    held.to_parquet(root / "bytes.parquet")
    held.save_to_disk(root / "saved")
    write_shards(root / "shards", captions, pictures)
    in_tar = {**DESCRIPTION, "positive": {**DESCRIPTION["positive"], "image": "jpg"}}
    shards = str(root / "shards" / f"{{00000..{SHARDS - 1:05d}}}.tar")
    return {
        f"parquet, {PICTURES:,} files": {"path": str(root / "named.parquet")},
        "the same, described, lists as text": {
            "path": str(root / "described.parquet"),
            **DESCRIPTION,
            "negatives": {"text": "{wrong}"},
        },
        "parquet, pictures inside": {"path": str(root / "bytes.parquet"), **DESCRIPTION},
        "saved by datasets, pictures inside": {"path": str(root / "saved"), **DESCRIPTION},
        f"{SHARDS} shards of tar": {"path": shards, **in_tar},
        f"{SHARDS} shards of tar, streamed": {"path": shards, **in_tar, "streamed": True},
        "parquet, pictures inside, streamed": {"path": str(root / "bytes.parquet"), **DESCRIPTION, "streamed": True},
    }


def write_shards(folder: Path, captions: list[str], pictures: list[bytes]) -> None:
    """Archives as `tarfile` writes them, whose own way of adding a member takes minutes here."""
    folder.mkdir()
    for shard in range(SHARDS):
        path = folder / f"{shard:05d}.tar"
        with path.open("wb") as archive:
            for row in range(shard, len(captions), SHARDS):
                caption = json.dumps({"caption": captions[row]}).encode()
                for suffix, content in (("jpg", pictures[row % PICTURES]), ("json", caption)):
                    member = tarfile.TarInfo(f"{row:08d}.{suffix}")
                    member.size = len(content)
                    archive.write(member.tobuf() + content + bytes(-len(content) % tarfile.BLOCKSIZE))
            archive.write(bytes(2 * tarfile.BLOCKSIZE))
        changed = time.time() - AGE
        os.utime(path, (changed, changed))


def opened(entry: dict[str, Any]) -> None:
    """Opens a container in this process and prints seconds and MiB."""
    from llave_hf.data import load_pairs, stream_pairs

    load = stream_pairs if entry.pop("streamed", False) else load_pairs
    held = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    Path("/proc/self/clear_refs").write_text("5")  # the peak from here on
    start = time.process_time()
    pairs = load([entry])
    seconds = time.process_time() - start
    peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    more = int(peak.split()[1]) / 1024 - held / 2**20
    print(json.dumps({"rows": len(pairs), "seconds": seconds, "mib": more}))


def measure_opening(root: Path, rows: int, container: str) -> list[dict[str, Any]]:
    """A row for each container whose name has the text in it."""
    results = []
    for number, (name, entry) in enumerate(write_containers(root, rows).items()):
        if container not in name:
            continue
        runs = []
        for _ in range(2):
            command = [sys.executable, __file__, "--open", json.dumps(entry)]
            environment = {**os.environ, "HF_HOME": str(root / f"cache-{number}")}
            done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
            runs.append(json.loads(done.stdout.splitlines()[-1]))
        results.append({"container": name, "first": runs[0], "second": runs[1]})
        print(
            f"| {name} | {runs[0]['rows']:,} | {runs[0]['seconds']:.2f} | {runs[1]['seconds']:.2f} | "
            f"{max(run['mib'] for run in runs):,.0f} |",
            flush=True,
        )
    return results


def children() -> float:
    """Seconds of the processor of processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def measure_reading(root: Path, rows: int) -> dict[str, Any]:
    """Seconds of an epoch of batches, from files and from a parquet file."""
    import datasets
    from torch.utils.data import DataLoader

    from llave_hf.checkpoints.from_scratch import build_from_scratch
    from llave_hf.data import LlaveCollator, load_pairs

    os.environ["HF_HOME"] = str(root / "cache")
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    _, processor = build_from_scratch(
        ["a picture of a thing"],
        vocab_size=300,
        vision_config={**shape, "image_size": 384, "patch_size": 14},
        text_config={**shape, "num_key_value_heads": 1},
    )
    (root / "photos").mkdir()
    captions = [f"a picture of thing {row}" for row in range(rows)]
    photos = [encoded(row, 1024, 768, "JPEG") for row in range(rows)]
    for row, photo in enumerate(photos):
        (root / f"photos/{row}.jpg").write_bytes(photo)
    with (root / "photos.jsonl").open("w") as lines:
        for row, caption in enumerate(captions):
            lines.write(json.dumps({"caption": caption, "picture": f"photos/{row}.jpg"}) + "\n")
    features = datasets.Features({"caption": datasets.Value("string"), "picture": datasets.Image()})
    inside = [{"bytes": photo, "path": None} for photo in photos]
    datasets.Dataset.from_dict({"caption": captions, "picture": inside}, features=features).to_parquet(
        root / "photos.parquet"
    )
    order = np.random.default_rng(0).permutation(rows).tolist()
    batches = [order[start : start + READ_BATCH] for start in range(0, rows, READ_BATCH)]
    seconds: dict[str, list[float]] = {"photos.jsonl": [], "photos.parquet": []}
    pairs = {name: load_pairs([{"path": str(root / name), **DESCRIPTION}]) for name in seconds}
    for number in range(ROUNDS + 1):
        for name, dataset in pairs.items():
            loader = DataLoader(
                dataset, batch_sampler=batches, num_workers=WORKERS, collate_fn=LlaveCollator(processor, as_bytes=True)
            )
            start = children()
            pictures = sum(len(batch["document_index"]) for batch in loader)  # then the workers have ended
            seconds[name].append(children() - start)
            assert pictures == rows
            print(f"round {number}: {name} {seconds[name][-1]:.2f} s", flush=True)
    files, table = seconds.values()
    return {
        "rows": rows,
        "kib": sum(map(len, photos)) / rows / 1024,
        "first": files[0] / table[0],
        "ratio": statistics.median(one / other for one, other in zip(files[1:], table[1:], strict=True)),
        "speed": {name: rows / statistics.median(own[1:]) for name, own in seconds.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--quick", action="store_true", help="few rows, to see that it runs")
    parser.add_argument("--only", choices=["opening", "reading"], help="one of the two")
    parser.add_argument("--container", default="", help="only containers with this in their name are opened")
    parser.add_argument("--output", type=Path, help="a folder for the figures as JSON")
    parser.add_argument("--open", type=json.loads, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.open is not None:
        opened(arguments.open)
        return
    rows, read = (2000, 64) if arguments.quick else (arguments.rows, READ_ROWS)
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        if arguments.only != "reading":
            print("| container | rows | first start (s) | second start (s) | memory (MiB) |\n|---|---|---|---|---|")
            results["opening"] = measure_opening(Path(folder), rows, arguments.container)
        if arguments.only != "opening":
            results["reading"] = reading = measure_reading(Path(folder), read)
            print(
                f"{reading['rows']} pictures of 1024 x 768, {reading['kib']:.0f} KiB each: "
                + ", ".join(
                    f"{name} {speed:.1f} a second of the processor" for name, speed in reading["speed"].items()
                )
                + f"; parquet by files {reading['ratio']:.2f}, {reading['first']:.2f} in the first epoch"
            )
    if arguments.output is not None:
        arguments.output.mkdir(parents=True, exist_ok=True)
        (arguments.output / "data_containers.json").write_text(json.dumps(results))


if __name__ == "__main__":
    main()
