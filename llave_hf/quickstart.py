"""make quickstart: a tiny model trained, evaluated, described, reloaded and asked, on the CPU, in minutes.

    python -m llave_hf.quickstart            # goes on with what is there
    python -m llave_hf.quickstart --fresh    # begins anew

Writes the built-in scenes data, trains recipes/tiny.yaml on it through `accelerate launch` with two processes, and
opens the result with sentence-transformers as anybody would.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

RECIPE = Path(__file__).parents[1] / "recipes" / "tiny.yaml"
STEPS = 300
QUERIES = (
    "a large red circle in the middle on a white background",
    "a small blue star left of a large yellow heart on a black background",
    "three small green squares on a striped background",
)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m llave_hf.quickstart", description=__doc__.split("\n")[0])
    parser.add_argument("--output_dir", type=Path, default=Path("quickstart"), metavar="DIR")
    parser.add_argument("--fresh", action="store_true", help="remove the folder and begin anew")
    arguments = parser.parse_args()
    root: Path = arguments.output_dir
    if arguments.fresh and root.exists():
        shutil.rmtree(root)
    start = time.perf_counter()
    scenes, model = root / "scenes", root / "model"
    if not (scenes / "benchmark.yaml").exists():
        from .data.scenes import write_scenes

        print(f"Drawing the built-in data: {scenes}", flush=True)
        write_scenes(scenes, train_pairs=4000, eval_queries=600)
    if (model / "README.md").exists():
        print(f"{model} is trained already; --fresh begins anew.")
    else:
        train(scenes, model)
    compare(scenes, model)
    answer(scenes, model)
    print(
        f"\nModel     {model}\nCard      {model / 'README.md'}\nPictures  {model / 'assets'}, {model / 'eval'}\n"
        f"Data      {scenes}\nTook      {time.perf_counter() - start:.0f} s"
    )


def train(scenes: Path, model: Path) -> None:
    """`accelerate launch` with two processes on the CPU; `--cpu --num_processes 2` would start one."""
    from .sweep.launching import Launch

    command = [*Launch(processes=2).command, "llave_hf.train", str(RECIPE), "--train_data", str(scenes / "train")]
    command += ["--media_root", str(scenes), "--eval_benchmark", str(scenes / "benchmark.yaml")]
    command += ["--output_dir", str(model), "--max_steps", str(STEPS), "--resume_from_checkpoint"]
    print("Training: ACCELERATE_USE_CPU=1 accelerate launch " + " ".join(command[3:]), flush=True)
    environment = {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", **os.environ, "ACCELERATE_USE_CPU": "1"}
    if subprocess.run(command, env=environment, check=False).returncode:
        sys.exit("quickstart: training failed; the error stands above.")


def compare(scenes: Path, model: Path) -> None:
    """Precision@1 before and after training, as text and as a plot."""
    import json

    from .evaluation import evaluate_benchmark
    from .evaluation.report import plot_scores

    before_file = model / "eval_before" / "results.json"
    if not before_file.exists():
        benchmark = scenes / "benchmark.yaml"
        evaluate_benchmark(
            str(model / "initial"), benchmark, output_dir=before_file.parent, batch_size=64, show_progress=False
        )
    before, after = (json.loads(p.read_text()) for p in (before_file, model / "eval" / "results.json"))
    plot_scores(after, model / "assets" / "before_and_after.png", before=before)
    print(f"\n{'precision@1 in %':<22}{'chance':>8}{'before':>8}{'after':>8}")
    for name, task in after["tasks"].items():
        shown = (task["chance"], before["tasks"][name]["precision_at_1"], task["precision_at_1"])
        print(f"{name:<22}" + "".join(f"{100 * value:8.1f}" for value in shown))


def answer(scenes: Path, model: Path) -> None:
    """Three captions and the pictures nearest to them, through stock sentence-transformers."""
    from sentence_transformers import SentenceTransformer

    encoder = SentenceTransformer(str(model), device="cpu")
    pictures = sorted((scenes / "images" / "scene").glob("*.png"))[-500:]
    documents = encoder.encode(
        [{"image": str(path), "text": "\nRepresent the given image.\n"} for path in pictures], show_progress_bar=False
    )
    texts = [f"Find an image that matches the given caption: {query}\n" for query in QUERIES]
    similarities = encoder.similarity(encoder.encode(texts, show_progress_bar=False), documents)
    for query, row in zip(QUERIES, similarities, strict=True):
        print(f"\n{query}")
        for index in row.topk(3).indices.tolist():
            print(f"  {row[index]:.3f}  {pictures[index]}")


if __name__ == "__main__":
    main()
