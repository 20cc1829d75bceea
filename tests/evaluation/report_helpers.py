"""An evaluation whose report has something to show: pictures, misses, ties, flaws and hostile texts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from evaluation_helpers import RecordingEncoder, make_row, write_benchmark
from PIL import Image

from llave_hf.evaluation import BenchmarkResults, evaluate_benchmark
from llave_hf.evaluation.benchmark.collection import collect_inputs
from llave_hf.evaluation.benchmark.inputs import DistinctInputs
from llave_hf.evaluation.benchmark.loading import load_benchmark
from llave_hf.evaluation.benchmark.rows import RowReader
from llave_hf.evaluation.results import TaskResult
from llave_hf.evaluation.retrieval.retrieval import normalise, score_tasks
from llave_hf.evaluation.retrieval.vectors import encode_inputs

HOSTILE = "<script>document.title = 'taken'</script> & \"more\" <img src=x onerror=\"document.title='taken'\">"
MARK = "<|image_1|>\nRepresent the given image.\n"
PICTURES = 8
LONG_WORD = "pneumonoultramicroscopicsilicovolcanoconiosis" * 4


def write_report_benchmark(folder: Path, **keys: Any) -> Path:
    """Texts that ask for pictures, a subset of words with flaws, and clips."""
    (folder / "clip").mkdir(parents=True)
    for number in range(PICTURES):
        Image.new("RGB", (200 + number, 120), (30 * number, 80, 255 - 30 * number)).save(folder / f"{number}.png")
        Image.new("RGB", (64, 48), (200, 20 * number, 0)).save(folder / "clip" / f"{number:02d}.png")
    pictures = [f"{number}.png" for number in range(PICTURES)]
    rows = {
        "Pictures": [
            make_row(f"{HOSTILE} {n}", [MARK] * PICTURES, target_images=pictures[n:] + pictures[:n])
            for n in range(PICTURES)
        ],
        "Words": [
            make_row("flawed", ["one", "two", "one", ""]),
            make_row("flawed", ["one", "two"]),
            make_row(LONG_WORD, [f"word {n}" for n in range(30)]),
        ],
        "Clips": [make_row("<|image_1|>\nWhat moves?\n", ["a clip", "nothing"], image="clip")],
    }
    options = {"Words": {"meta_task": "vqa", "distribution": "out"}, "Clips": {"meta_task": "video"}}
    return write_benchmark(folder, rows, options, **keys)


def content_encoder() -> RecordingEncoder:
    """Another vector for every content, so that nothing is found but by chance."""

    def vector(entry: Any) -> np.ndarray:
        text = entry if isinstance(entry, str) else repr([picture.size for picture in _pictures(entry)])
        return np.random.default_rng(list(text.encode())).standard_normal(16) + 0.4

    return RecordingEncoder(vector)


def scored(path: Path, model: RecordingEncoder) -> tuple[BenchmarkResults, DistinctInputs]:
    """What `evaluate_benchmark` makes a report of."""
    benchmark = load_benchmark(path)
    inputs, tasks = collect_inputs(benchmark, RowReader(benchmark))
    embeddings = encode_inputs(model, inputs, batch_size=4, show_progress=False)
    found = score_tasks(tasks, embeddings, normalise(embeddings))
    results = tuple(TaskResult(task, *parts) for task, parts in zip(tasks, found, strict=True))
    return BenchmarkResults("tiny", benchmark.name, "v1", results), inputs


def write_example(folder: Path, model: RecordingEncoder, **options: Any) -> Path:
    """The page of an evaluation, written as users get it."""
    benchmark = write_report_benchmark(folder / "data")
    evaluate_benchmark(model, benchmark, output_dir=folder / "out", show_progress=False, **options)
    return folder / "out" / "report.html"


def _pictures(entry: dict[str, Any]) -> list[Image.Image]:
    return entry["video"] if "video" in entry else [entry["image"]]
