"""make quickstart: a tiny model trained, evaluated, described, reloaded and asked, on the CPU, in minutes.

    python -m llave_hf.quickstart            # goes on with what is there
    python -m llave_hf.quickstart --fresh    # begins anew

Writes the built-in scenes data, trains recipes/quickstart.yaml on it, labels first, through `accelerate launch` with
two processes, and opens the result with sentence-transformers as anybody would.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

from llave_hf.runtime.shipped_recipes import recipes_folder

RECIPE = recipes_folder() / "quickstart.yaml"
TRAIN_PAIRS, EVAL_QUERIES = 32000, 840
# Mostly labels; other tasks have one row of 64, the least that batch_mix allows.
FIRST_LESSON = (
    *("--max_steps", "480", "--save_steps", "480", "--use_negatives", "false", "--muon_learning_rate", "0.01"),
    *("--hardness_strength", "0", "--temperature", "0.05", "--batch_mix"),
    "{SceneShape: 26, SceneCount: 12, SceneQA: 21, SceneBackground: 1, SceneCaption_t2i: 1, SceneCaption_i2t: 1, "
    "SceneCIR: 1, SceneRef: 1}",
)
ASK = "'a large red circle in the middle on a white background'"  # which the album answers
SECOND_LESSON: tuple[str, ...] = ()  # as the recipe has it


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m llave_hf.quickstart", description=__doc__.split("\n")[0])
    parser.add_argument("--output_dir", type=Path, default=Path("quickstart"), metavar="DIR")
    parser.add_argument("--fresh", action="store_true", help="remove the folder and begin anew")
    arguments = parser.parse_args()
    root: Path = arguments.output_dir
    from llave_hf.training.run_log import shorten_log

    shorten_log()  # before other imports, which say things that nobody can act on
    if arguments.fresh and root.exists():
        shutil.rmtree(root)
    start = time.perf_counter()
    scenes, first, model = root / "scenes", root / "first_lesson", root / "model"
    if not (scenes / "benchmark.yaml").exists():
        from llave_hf.data.scenes import write_scenes

        print(f"Drawing {TRAIN_PAIRS:,} training pairs and {EVAL_QUERIES} questions: {scenes}", flush=True)
        if scenes.exists():  # of a run that was stopped
            shutil.rmtree(scenes)
        write_scenes(scenes, train_pairs=TRAIN_PAIRS, eval_queries=EVAL_QUERIES)
    if (model / "README.md").exists():
        print(f"{model} is trained already; --fresh begins anew.")
    else:
        train(scenes, first, model)
    compare(scenes, first / "initial", model)
    ask(root, model)
    print(
        f"\nModel     {model}\nCard      {model / 'README.md'}\nAnswers   {root / 'answers.png'}\n"
        f"Scores    {model / 'eval' / 'report.html'}\nTook      {time.perf_counter() - start:.0f} s"
    )
    print("\nGo on:\n" + "\n".join(f"  {command}" for command in next_commands(root)))


def train(scenes: Path, first: Path, model: Path) -> None:
    """Labels first, then everything.

    To a small model from random weights, colors and backgrounds are enough to tell most captions apart, and it takes
    thousands of steps before it looks at shapes. Pictures and the name of their shape leave it no other way.
    """
    print("Training, first lesson: shapes, numbers and questions", flush=True)
    launch(scenes, first, ["--eval_benchmark", "null", *FIRST_LESSON])
    print("Training, second lesson: everything", flush=True)
    again = ["--from_scratch", "null", "--model", str(first), *SECOND_LESSON]
    launch(scenes, model, ["--eval_benchmark", str(scenes / "benchmark.yaml"), *again])


def launch(scenes: Path, output_dir: Path, settings: list[str]) -> None:
    """`accelerate launch` with two processes on the CPU; `--cpu --num_processes 2` would start one."""
    from llave_hf.sweep.launching import Launch

    if (output_dir / "README.md").exists():  # its card, which comes last
        return
    command = [*Launch(processes=2).command, "llave_hf.train", str(RECIPE), "--train_data", str(scenes / "train")]
    command += ["--media_root", str(scenes), "--output_dir", str(output_dir), *settings]
    if next(output_dir.glob("checkpoint-*"), None):
        command.append("--resume_from_checkpoint")
    print("ACCELERATE_USE_CPU=1 accelerate launch " + shlex.join(command[3:]), flush=True)
    environment = {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", **os.environ, "ACCELERATE_USE_CPU": "1"}
    if subprocess.run(command, env=environment, check=False).returncode:
        sys.exit("quickstart: training failed; the error stands above.")


def compare(scenes: Path, initial: Path, model: Path) -> None:
    """Precision@1 before and after training, as text and as a plot."""
    import json

    from llave_hf.evaluation import evaluate_benchmark
    from llave_hf.evaluation.report.files import plot_scores

    before_file = model / "eval_before" / "results.json"
    if not before_file.exists():
        benchmark = scenes / "benchmark.yaml"
        evaluate_benchmark(str(initial), benchmark, output_dir=before_file.parent, batch_size=64, show_progress=False)
    before, after = (json.loads(p.read_text()) for p in (before_file, model / "eval" / "results.json"))
    plot_scores(after, model / "assets" / "before_and_after.png", before=before)
    print(f"\n{'precision@1 in %':<22}{'chance':>8}{'before':>8}{'after':>8}")
    for name, task in after["tasks"].items():
        shown = (task["chance"], before["tasks"][name]["precision_at_1"], task["precision_at_1"])
        print(f"{name:<22}" + "".join(f"{100 * value:8.1f}" for value in shown))


def ask(root: Path, model: Path) -> None:
    """Questions to the model about an album of new pictures, as text and as a picture."""
    from .album import QUESTIONS, album_scenes, draw_album
    from .answers import NEAREST, answer, draw_answers

    scenes = album_scenes(seen={path.read_bytes() for path in (root / "scenes").glob("images/scene/*.png")})
    pictures = draw_album(root / "album", scenes)
    is_right = [[question.judge(scene) is True for scene in scenes] for question in QUESTIONS]
    answers = answer(model, [question.text() for question in QUESTIONS], pictures, is_right)
    draw_answers(answers, root / "answers.png")
    print(f"\nThe {NEAREST} of {len(scenes)} new pictures nearest to each question:")
    print("\n".join(f"  {given.line}" for given in answers))


def next_commands(root: Path) -> list[str]:
    """What can be tried now, to be copied as it stands."""

    def word(path: Path) -> str:
        inside = path.is_absolute() and path.is_relative_to(Path.cwd())
        return shlex.quote(str(path.relative_to(Path.cwd()) if inside else path))

    llave, accelerate = (word(Path(sys.executable).with_name(name)) for name in ("llave", "accelerate"))
    album, model, scenes = word(root / "album"), root / "model", root / "scenes"
    data = f"--train_data {word(scenes / 'train')} --media_root {word(scenes)} --eval_benchmark null"
    again = f"--from_scratch null --model {word(model)} --max_steps 2000 --output_dir {word(root / 'longer')}"
    return [
        f"{llave} index {album} --model {word(model)} && {llave} search {ASK} --collection {album}",
        f"{llave} app {album}",
        f"{accelerate} launch --config_file {word(RECIPE.parent / 'accelerate' / 'cpu.yaml')} -m llave_hf.train "
        f"{word(RECIPE)} {data} {again}",
    ]


if __name__ == "__main__":
    main()
