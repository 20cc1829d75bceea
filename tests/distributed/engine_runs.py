"""Trainings that every engine must do as one process does, and how they are launched and compared."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from evaluation_helpers import make_row, write_benchmark
from helpers import picture, tiny_model, write_recipe, write_training_data
from safetensors.torch import load_file

ROOT = Path(__file__).absolute().parents[2]
WORKER = Path(__file__).absolute().with_name("engine_worker.py")
ZERO = ("--use_cpu", "false", "--ddp_backend", "gloo")
STEPS = 6
EXIT_SECONDS = 20  # for the launcher as well, on a busy machine
CACHED = ("--mini_batch_num_tokens", "64")
SGD = ("--optim", "sgd", "--max_grad_norm", "0", "--learning_rate", "0.01")
SAVED = ("--save_strategy", "steps", "--save_steps", "3")
EVALUATED = ("--eval_benchmark", "BENCHMARK", "--eval_strategy", "steps", "--eval_steps", "3")
# Ranks of two pairs that have videos, pictures or both.
MOVING = (*SGD, "--train_data", "CLIPS", "--processor.video_newline", "no_token")
# An epoch of four steps, each of two groups of two rows. Some are of texts alone, so no Adam (ZeRO's moves on).
GROUPED = (*SGD, "--train_data", "GROUPED", "--batch_groups", "--max_samples_per_source", "8")
MINED = ("--mine_every", "1", "--mine_options", "{relative_margin: null, rank_max: 6}")
GRADED = (*SGD, "--train_data", "GROUPED", "--use_negatives", "--distill_weight", "1", "--teacher_temperature", "0.1")
# Steps of one task each, so of texts alone too.
BY_TASK = ("--batch_tasks", "one")


# DeepSpeed's own Adam for the CPU would be compiled first.
OFFLOADED = {
    "zero_optimization": {"offload_optimizer": {"device": "cpu"}, "stage3_gather_16bit_weights_on_model_save": True},
    "zero_force_ds_cpu_optimizer": False,
    "gradient_accumulation_steps": "auto",
    "gradient_clipping": "auto",
    "train_micro_batch_size_per_gpu": "auto",
    "train_batch_size": "auto",
}


@dataclass(frozen=True)
class Case:
    """A training, by what it adds to the recipe.

    Attributes:
        overrides: For one process and for an engine.
        apart: For the engine alone: what must not change a result.
    """

    overrides: tuple[str, ...] = ()
    apart: tuple[str, ...] = ()


CASES = {
    "no caching": Case(),
    "caching": Case(apart=CACHED),
    "no caching, SGD": Case((*SGD, *BY_TASK)),
    "caching, SGD": Case((*SGD, *BY_TASK), CACHED),
    "frozen tower": Case(("--freeze", "[vision_tower]"), CACHED),
    "frozen language model": Case(("--freeze", "[language_model]"), CACHED),
    "LoRA": Case(("--lora", "{r: 4}", "--from_scratch", "null", "--model", "MODEL"), CACHED),
    "activation checkpointing": Case(apart=(*CACHED, "--gradient_checkpointing")),
    "accumulation": Case((*SGD, "--gradient_accumulation_steps", "2"), CACHED),
    "accumulation, no caching": Case((*SGD, "--gradient_accumulation_steps", "2")),
    "explicit negatives": Case(("--use_negatives", "--hardness_mode", "all_negatives"), CACHED),
    "teacher": Case(("--hardness_source", "teacher", "--hardness_teacher", "MODEL"), CACHED),
    "evaluation": Case((*EVALUATED, *SAVED), CACHED),
    "LoRA, evaluation": Case(("--lora", "{r: 4}", "--from_scratch", "null", "--model", "MODEL", *EVALUATED), CACHED),
    "moving average": Case(("--hardness_source", "ema", "--ema_decay", "0.5", *SAVED), CACHED),
    "moving average, no caching": Case(("--hardness_source", "ema", "--ema_decay", "0.5"), ()),
    "batches of groups": Case(GROUPED, CACHED),
    "batches of groups, mined again": Case((*GROUPED, *MINED), CACHED),
    "graded labels, relative margin": Case(
        (*GRADED, "--false_negative_margin", "0.002", "--margin_strategy", "relative"), CACHED
    ),
    "Focal-InfoNCE": Case(("--hardness_strength", "0", "--focal_margin", "0.3"), CACHED),
    "relative to the positive": Case(
        ("--hardness_source", "teacher", "--hardness_teacher", "MODEL", "--hardness_reference", "positive"), CACHED
    ),
    "videos, no newline": Case(MOVING, CACHED),
    "videos, no newline, no caching": Case(MOVING),
}


# Goes on from the checkpoint of this case's run, which one process needs not do again.
RESUMED = {"resumed": "evaluation", "moving average, resumed": "moving average"}
OF_DDP = ("batches of groups", "batches of groups, mined again", "graded labels, relative margin")
SPREAD = tuple(name for name in CASES if not name.endswith("mined again"))  # refused where a model is spread
OF_DEEPSPEED = tuple(name for name in SPREAD if not name.startswith("moving average"))
OFFLOADED_CASES = ("caching", "no caching, SGD", "caching, SGD")
PLAN: dict[str, tuple[str, ...]] = {
    "ddp": ("caching", *OF_DDP),
    "fsdp2": (*SPREAD, *RESUMED),
    "fsdp2_sharded": ("evaluation", "LoRA, evaluation", "resumed"),
    "zero3": (*OF_DEEPSPEED, "resumed"),
    "zero3_offloaded": OFFLOADED_CASES,
    "zero2": (*OF_DEEPSPEED, "resumed"),
    "zero2_offloaded": OFFLOADED_CASES,
}


POST_MORTEMS = ("fsdp2", "zero3")  # engines whose last run meets numbers that are not finite


def write_root(root: Path) -> Path:
    """Tasks that differ in kind (pictures, texts, videos), so that ranks do, and steps do not reach all of a model."""
    write_training_data(root)
    blank = {"qry_image_path": "", "pos_image_path": ""}
    texts = [
        {"qry": f"say {number}", "pos_text": f"it is {number**2}", "neg_text": f"it is {number}", **blank}
        for number in range(24)
    ]
    _write(root / "train" / "Texts" / "original.jsonl", texts)
    clips = []
    for number in range(12):
        for frame in range(2):
            path = root / "clips" / str(number) / f"{frame}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            picture(28, 28, seed=100 + 2 * number + frame).save(path)
        clips.append({"qry": f"clip {number}\n", "pos_text": "<|video_1|>\n", "pos_video_path": f"clips/{number}"})
        clips.append(
            {"qry": f"find {number}\n", "pos_text": "<|image_1|>\n", "pos_image_path": f"images/{number}.png"}
        )
    _write(root / "moving" / "Clips" / "original.jsonl", clips)
    _write_benchmark(root)
    _write_grouped(root)
    model, processor = tiny_model(processor={"image_tiling": "none"})
    model.save_pretrained(root / "start")
    processor.save_pretrained(root / "start")
    # A large epsilon keeps Adam from making steps out of rounding.
    write_recipe(
        root,
        batch_tasks="mixed",
        per_device_train_batch_size=4,
        max_steps=STEPS,
        save_strategy="no",
        adam_epsilon=1e-3,
        telemetry_every=0,
    )
    return root


def _write_grouped(root: Path) -> None:
    """Rows in groups of two, with negatives and grades: texts with one or two, pictures with none."""
    blank = {"qry_image_path": "", "pos_image_path": ""}
    texts = [
        {
            "qry": f"say {number}",
            "pos_text": f"it is {number**2}",
            "neg_text": [f"it is {number}", f"it is {number + 1}"][: 1 + number % 2],
            "pos_score": 0.9,
            "neg_score": [0.2 + number / 40, 0.6][: 1 + number % 2],
            "batch_group": number // 2,
            **blank,
        }
        for number in range(16)
    ]
    found = [
        {
            "qry": f"find {number}\n",
            "pos_text": "<|image_1|>\n",
            "qry_image_path": "",
            "pos_image_path": f"images/{number}.png",
            "neg_text": [],
            "pos_score": None,
            "neg_score": [],
            "batch_group": number // 2,
        }
        for number in range(12)
    ]
    _write(root / "grouped" / "Texts" / "original.jsonl", texts)
    _write(root / "grouped" / "Found" / "original.jsonl", found)


def _write_benchmark(root: Path) -> None:
    """Odd numbers of inputs, of which ranks get shares of unequal size and kind."""
    mark = "<|image_1|>\nRepresent the given image.\n"
    pictures = [f"images/{number}.png" for number in range(5)]
    rows = {
        "Words": [make_row(f"say {n}", [f"it is {(n + m) ** 2}" for m in range(9)]) for n in range(41)],
        "Pictures": [
            make_row(f"Find: Caption number {n}\n", [mark] * 5, target_images=pictures[n:] + pictures[:n])
            for n in range(5)
        ],
    }
    write_benchmark(root, rows, {"Pictures": {"pool": "global"}})


def _write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def arguments(root: Path, folder: Path, overrides: tuple[str, ...]) -> list[str]:
    """Of one run of the worker."""
    places = {"MODEL": "start", "CLIPS": "moving", "GROUPED": "grouped", "BENCHMARK": "benchmark.yaml"}
    named = {name: str(root / place) for name, place in places.items()}
    return [str(root / "recipe.yaml"), "--output_dir", str(folder), *(named.get(one, one) for one in overrides)]


def folder_of(root: Path, engine: str | None, name: str) -> Path:
    """Where a case's run lies; cases that are one and the same for one process share one."""
    if engine is None:
        case = CASES[RESUMED.get(name, name)]
        name = next(other for other in CASES if CASES[other].overrides == case.overrides)
    return root / (engine or "one") / name.replace(", ", "-").replace(" ", "_")


def run_all(root: Path, engine: str | None) -> str:
    """All cases of an engine, in one launch; what it printed."""
    runs = []
    for name in CASES if engine is None else PLAN[engine]:
        folder = folder_of(root, engine, name)
        case = CASES[RESUMED.get(name, name)]
        run = arguments(root, folder, case.overrides if engine is None else case.overrides + case.apart)
        if engine is not None and name in RESUMED:
            checkpoint = folder_of(root, engine, RESUMED[name]) / f"checkpoint-{STEPS // 2}"
            run += ["--resume_from_checkpoint", str(checkpoint)]
        if run not in runs:
            runs.append(run)
    if engine in POST_MORTEMS:  # last: a process that has been stopped need not train again
        runs.append(arguments(root, root / engine / "stopped", (*CACHED, *SGD, "--learning_rate", "1e30")))
    return launch(root, engine, runs)


def configuration(root: Path, engine: str) -> Path:
    """The shipped configuration, for two processes and without bfloat16."""
    name, _, variant = engine.partition("_")
    shipped = {"zero2": "zero3", "ddp": "cpu"}.get(name, name)
    fields: dict[str, Any] = yaml.safe_load((ROOT / f"recipes/accelerate/{shipped}.yaml").read_text())
    fields |= {"num_processes": 2, "mixed_precision": "no"}
    if variant == "sharded":
        fields["fsdp_config"] |= {"fsdp_state_dict_type": "SHARDED_STATE_DICT", "fsdp_cpu_ram_efficient_loading": True}
    if variant == "offloaded":
        offloaded: dict[str, Any] = copy.deepcopy(OFFLOADED)
        offloaded["zero_optimization"]["stage"] = stage = int(name[-1])
        if stage == 3:
            offloaded["zero_optimization"]["offload_param"] = {"device": "cpu"}
        written = root / f"{engine}.json.config"
        written.write_text(json.dumps(offloaded))
        fields["deepspeed_config"] = {"deepspeed_config_file": str(written), "zero3_init_flag": stage == 3}
        del fields["mixed_precision"]  # accelerate wants the file to say so
    if engine == "zero2":
        fields["deepspeed_config"] |= {"zero_stage": 2, "zero3_init_flag": False, "zero3_save_16bit_model": False}
    path = root / f"{engine}.yaml"
    path.write_text(yaml.safe_dump(fields))
    return path


def launch(root: Path, engine: str | None, runs: list[list[str]], *, timeout: int = 900) -> str:
    """Runs of the worker in one launch, on one process (None) or two; what it printed."""
    command = [sys.executable]
    if engine is not None:
        command += ["-m", "accelerate.commands.launch", "--main_process_port", "0"]
        command += ["--config_file", str(configuration(root, engine))]
        if engine.startswith("zero"):
            runs = [[*run, *ZERO] for run in runs]
        runs = [[*run, "--per_device_train_batch_size", "2"] for run in runs]
    listed = root / f"{engine}.json"
    listed.write_text(json.dumps(runs))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "DS_ACCELERATOR": "cpu"}
    done = subprocess.run(
        [*command, str(WORKER), str(listed)],
        capture_output=True,
        text=True,
        env=environment,
        timeout=timeout,
        check=False,
    )
    assert done.returncode == 0, (done.stdout[-2000:], done.stderr[-6000:])
    # torch's own pinned memory is missed on a CPU only; DDP cannot know that a later step leaves a tower out.
    known = ("'pin_memory'", "find_unused_parameters=True")
    warned = [line for line in done.stderr.splitlines() if "Warning: " in line]
    complaints = [line for line in warned if not any(words in line for words in known)]
    assert not complaints, complaints[:5]
    last = max(float(line.split()[-1]) for line in done.stdout.splitlines() if line.startswith("done at "))
    assert time.time() - last < EXIT_SECONDS, "all was written, and a process did not end"
    return done.stdout


def log_of(folder: Path) -> list[dict[str, Any]]:
    """What a run logged, step by step."""
    entries: list[dict[str, Any]] = json.loads((folder / "trainer_state.json").read_text())["log_history"]
    return entries


def history(folder: Path, name: str) -> list[float]:
    """What was logged of each step."""
    return [entry[name] for entry in log_of(folder) if name in entry and "loss" in entry]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def apart(found: Path, expected: Path) -> dict[str, float]:
    """The largest relative errors of losses, of gradient norms and of weights, between two finished folders."""
    from step_helpers import furthest

    errors = {"weights": furthest(weights(found), weights(expected))}
    for name in ("loss", "grad_norm"):
        pairs = list(zip(history(found, name), history(expected, name), strict=True))
        assert pairs or name == "grad_norm", found
        errors[name] = max((abs(one - other) / abs(other) for one, other in pairs), default=0.0)
    evaluated = [
        {name: value for entry in log_of(folder) for name, value in entry.items() if name.startswith("eval_")}
        for folder in (found, expected)
    ]
    if evaluated[1]:
        assert evaluated[0].keys() == evaluated[1].keys()
        errors["evaluation"] = max(abs(evaluated[0][name] - evaluated[1][name]) for name in evaluated[1])
    return errors


def errors_of(root: Path, engine: str, name: str) -> dict[str, float]:
    """Of a case against one process; of a resumed run against its unbroken one, which it must equal to the bit."""
    found = folder_of(root, engine, name)
    if name not in RESUMED:
        return apart(found, folder_of(root, None, name))
    before, after = weights(folder_of(root, engine, RESUMED[name])), weights(found)
    assert before.keys() == after.keys()
    return {"weights": max((before[key] - after[key]).abs().max().item() for key in before)}


def moved(folder: Path, start: Path) -> float:
    """The largest change of a weight."""
    before, after = weights(start), weights(folder)
    return max((after[name] - before[name]).abs().max().item() for name in after)
