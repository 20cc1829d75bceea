"""A model's card, from what training and evaluation left in its folder."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
import yaml
from safetensors import safe_open

from llave_hf.errors import UserError
from llave_hf.runtime.places import hub_id

from .metadata import front_matter, metric_of, write_eval_results
from .plots import plot_training

MARKER = "<!-- card written by llave_hf: `llave card` writes it anew, unless this line is gone -->"

# Of a recipe, in the order of the card: what the reader of a result asks for first.
_SHOWN = {
    "train_data": "data",
    "max_samples_per_source": "rows a subset, at most",
    "temperature": "temperature",
    "hardness_strength": "hardness strength",
    "hardness_reference": "hardness measured from",
    "focal_margin": "margin of Focal-InfoNCE",
    "margin_strategy": "margins against false negatives",
    "contrastive_weight": "weight of the contrastive loss",
    "distill_weight": "weight of graded labels",
    "distill_source": "graded by",
    "teacher_temperature": "temperature of the grades",
    "learning_rate": "learning rate",
    "muon_learning_rate": "learning rate of hidden matrices (Muon)",
    "lr_scheduler_type": "schedule",
    "warmup_steps": "warm-up",
    "weight_decay": "weight decay",
    "batch_tasks": "tasks in a batch",
    "batch_groups": "batches of mined groups",
    "mine_every": "epochs between minings of groups",
    "freeze": "frozen parts",
    "seed": "seed",
}


def write_model_card(
    folder: str | os.PathLike[str], *, force: bool = False, chosen: Mapping[str, Any] | None = None
) -> Path:
    """Renders README.md in a model folder, its plots in `assets/`, and `.eval_results/`.

    What was not measured is left out.

    Args:
        folder: A saved model; `recipe.yaml`, `training_args.json`, `trainer_state.json`, `emissions.csv` and
            `eval/results.json` are read where they are there.
        force: Overwrite a README.md that somebody else wrote.
        chosen: `license`, `language`, `base_model` of the front matter; None keeps those of the card that is there.

    Raises:
        UserError: The folder holds no model, or a README.md without the card's mark.
    """
    root = Path(folder)
    if not (root / "config.json").is_file():
        raise UserError(f"{root} holds no model (no config.json); give the output folder of a training run.")
    card = root / "README.md"
    if card.exists() and not force and MARKER not in card.read_text(encoding="utf-8"):
        raise UserError(f"{card} was not written by llave_hf; move it away, or overwrite it with --force.")
    recipe = _recipe(root)
    results = _json(root / "eval" / "results.json")
    merge = _json(root / "fingerprint.json").get("merge")
    variables = {
        "merge": merge,
        **_model(root),
        **_training(root, recipe),
        **_telemetry(root),
        **_results(root, results),
    }
    variables |= {"name": root.resolve().name, "model_id": root.resolve().name, "marker": MARKER}
    variables["front_matter"] = front_matter(root, recipe, results, chosen, merge)
    write_eval_results(root, results)
    card.write_text(render(variables), encoding="utf-8")
    return card


def render(variables: Mapping[str, Any]) -> str:
    """The template with its variables; a variable that is missing leaves its section out."""
    source = files("llave_hf.hub.card").joinpath("template.md.jinja").read_text(encoding="utf-8")
    environment = jinja2.Environment(keep_trailing_newline=True, trim_blocks=True, autoescape=False)
    return environment.from_string(source).render(**variables)


def _model(root: Path) -> dict[str, Any]:
    config = _json(root / "config.json")
    processor = _json(root / "processor_config.json")
    text = config.get("backbone_config", {}).get("text_config", {})
    weights = sorted(root.glob("*.safetensors"))
    count = sum(_count(file) for file in weights)
    return {
        "dimension": text.get("hidden_size"),
        "max_length": f"{processor.get('max_length', 4096):,}",
        "parameters": f"{count:,}",
    }


def _count(file: Path) -> int:
    with safe_open(file, framework="pt") as tensors:
        shapes = [tensors.get_slice(name).get_shape() for name in tensors.keys()]  # noqa: SIM118  # no iterator
    total = 0
    for shape in shapes:
        size = 1
        for side in shape:
            size *= side
        total += size
    return total


def _training(root: Path, recipe: dict[str, Any]) -> dict[str, Any]:
    arguments, state = _json(root / "training_args.json"), _json(root / "trainer_state.json")
    if not recipe:
        return {}
    rows: list[tuple[str, Any]] = []
    if state:
        rows.append(("steps", f"{state['global_step']:,} ({state['epoch']:.2f} epochs)"))
    if "negatives_per_query" in arguments:
        rows.append(("negatives per query", f"{arguments['negatives_per_query']:,}"))
    if "per_device_train_batch_size" in arguments:
        rows.append(("pairs a device and step", f"{arguments['per_device_train_batch_size']:,}"))
        precision = "bfloat16" if arguments.get("bf16") else "float16" if arguments.get("fp16") else "float32"
        rows.append(("precision", precision))
    if "hardware" in arguments:
        rows.append(("hardware", arguments["hardware"]))
    rows += [(label, _shown(recipe[key])) for key, label in _SHOWN.items() if recipe.get(key) not in (None, [])]
    plot = root / "assets" / "training.png"
    drawn = plot_training(state.get("log_history", []), plot)
    return {
        "recipe": rows,
        "base_model": hub_id(recipe.get("model")),
        "from_scratch": "from_scratch" in recipe,
        "training_plot": "assets/training.png" if drawn else None,
    }


def _telemetry(root: Path) -> dict[str, Any]:
    """How far positives lie from the hardest negatives at the end of training, the paper's Figure 1 and Table 1."""
    found = _json(root / "telemetry.json").get("latest", {})
    if not found:
        return {}
    numbers = {
        "mean cosine of positives": found["positive"],
        "of each query's five hardest negatives": found["hard"],
        "of its five easiest": found["easy"],
        "overlap of positives and hardest negatives": found["overlap"],
        "positives above hardest negatives (AUC)": found["auc"],
        "effective number of negatives": found["effective_negatives"],
        "share of the gradient from a query's own mined group": found.get("group_gradient_share"),
        "share of the negatives that are of it": found.get("group_share"),
        "share of its own group that is masked": found.get("masked_share_own_group"),
    }
    plot = root / "telemetry_similarities.png"
    if plot.exists():
        (root / "assets").mkdir(exist_ok=True)
        shutil.copyfile(plot, root / "assets" / "similarities.png")
    return {
        "separation": [(name, f"{value:.2f}") for name, value in numbers.items() if value is not None],
        "separation_plot": "assets/similarities.png" if plot.exists() else None,
    }


def _results(root: Path, results: dict[str, Any]) -> dict[str, Any]:
    if not results:
        return {}
    rows = [
        {
            "subset": name,
            "meta_task": task["meta_task"],
            "distribution": task["distribution"],
            "metric": metric_of(task),
            "n": task["n"],
            "score": _percent(task[metric_of(task)]),
            "interval": f"{_percent(task['ci95'][0])} to {_percent(task['ci95'][1])}",
            "chance": _percent(task["chance"]),
        }
        for name, task in results["tasks"].items()
    ]
    plot = root / "eval" / "results.png"
    if plot.exists():
        (root / "assets").mkdir(exist_ok=True)
        shutil.copyfile(plot, root / "assets" / "results.png")
    return {
        "results": rows,
        "benchmark": results["benchmark"],
        "revision": results.get("revision"),
        "means": ", ".join(f"{name} {_percent(value)}" for name, value in results["means"].items()),
        "results_plot": "assets/results.png" if plot.exists() else None,
    }


def _recipe(root: Path) -> dict[str, Any]:
    path = root / "recipe.yaml"
    return yaml.safe_load(path.read_text(encoding="utf-8")) if path.exists() else {}


def _json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_shown, value))
    if isinstance(value, Mapping):
        return _shown(value.get("path", "?"))
    return f"`{Path(value).name}`" if isinstance(value, str) and "/" in value and not hub_id(value) else str(value)


def _percent(value: float) -> str:
    return f"{100 * value:.1f}"
