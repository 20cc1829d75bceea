"""What the Hub reads of a model without opening it: a card's front matter, and `.eval_results/`."""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData

from llave_hf.errors import UserError
from llave_hf.evaluation.benchmark.loading import bundled_benchmarks, load_benchmark
from llave_hf.runtime.places import hub_id

TAGS = ("llave", "multimodal", "embedding", "transformers", "sentence-transformers")
# Fields that a person chooses; a card that is written anew keeps them.
CHOSEN = ("license", "license_name", "license_link", "language", "base_model")

_COMMIT = re.compile(r"[0-9a-f]{40}")


def front_matter(
    root: Path,
    recipe: Mapping[str, Any],
    results: Mapping[str, Any],
    chosen: Mapping[str, Any] | None = None,
    merge: Mapping[str, Any] | None = None,
) -> str:
    """The YAML between a card's two `---`.

    Args:
        root: The model folder; its name is the model's, its `emissions.csv` is codecarbon's.
        recipe: What it was trained by, or nothing.
        results: The content of `eval/results.json`, or nothing.
        chosen: Fields of [`CHOSEN`]; those that are missing stay as the folder's card has them.
        merge: What `fingerprint.json` says of the models that it was merged from.
    """
    fields = {**chosen_fields(root / "README.md"), **{k: v for k, v in (chosen or {}).items() if v}}
    trained_from = hub_id(recipe.get("model"))
    if trained_from:
        fields["base_model"] = trained_from
    parents = [model["hub_id"] for model in (merge or {}).get("models", ()) if "hub_id" in model]
    if parents:
        fields |= {"base_model": list(dict.fromkeys(parents)), "base_model_relation": "merge"}
    sources = recipe.get("train_data") or []
    listed = sources if isinstance(sources, list) else [sources]
    paths = [source.get("path") if isinstance(source, Mapping) else source for source in listed]
    evaluations = _model_index(results)
    data = ModelCardData(
        library_name="sentence-transformers",
        pipeline_tag="feature-extraction",
        tags=list(TAGS),
        datasets=[source for source in map(hub_id, paths) if source] or None,
        model_name=root.resolve().name if evaluations else None,
        eval_results=evaluations or None,
        co2_eq_emissions=_emissions(root / "emissions.csv", from_scratch="from_scratch" in recipe),
        **fields,
    )
    return data.to_yaml(line_break="\n") + "\n"


def chosen_fields(card: Path) -> dict[str, Any]:
    """The fields of [`CHOSEN`] that a card has."""
    if not card.is_file():
        return {}
    try:
        data = ModelCard.load(card).data.to_dict()
    except (ValueError, yaml.YAMLError) as error:
        raise UserError(
            f"the front matter of {card} cannot be read ({error}); mend it or move the file away."
        ) from error
    return {name: data[name] for name in CHOSEN if data.get(name)}


def write_eval_results(root: Path, results: Mapping[str, Any]) -> Path | None:
    """`.eval_results/<benchmark>.yaml`, which the Hub shows on the model's page and the benchmark's leaderboard.

    Only for a bundled benchmark whose rows came from the Hub: an entry names the data set and its commit.
    """
    source = _data_set(results)
    if source is None:
        return None
    entries = [
        {
            "dataset": {"id": source, "task_id": subset, "revision": results["revision"]},
            "value": round(task[metric_of(task)], 4),
            "notes": f"{metric_of(task)}, measured with llave_hf",
        }
        for subset, task in results["tasks"].items()
    ]
    path = root / ".eval_results" / f"{results['benchmark']}.yaml"
    path.parent.mkdir(exist_ok=True)
    path.write_text(yaml.safe_dump(entries, sort_keys=False), encoding="utf-8")
    return path


def metric_of(task: Mapping[str, Any]) -> str:
    """The metric that a subset's interval and chance are of."""
    return task.get("metric", "precision_at_1")


def _data_set(results: Mapping[str, Any]) -> str | None:
    """The Hub id of the data that a bundled benchmark was evaluated on; None where local files took their place."""
    if results.get("benchmark") not in bundled_benchmarks() or not _COMMIT.fullmatch(results.get("revision") or ""):
        return None
    return str(load_benchmark(results["benchmark"]).source)


def _model_index(results: Mapping[str, Any]) -> list[EvalResult]:
    return [
        EvalResult(
            task_type="retrieval",
            dataset_type=_data_set(results) or results["benchmark"],
            dataset_name=f"{results['benchmark']} {subset}",
            dataset_config=subset,
            dataset_revision=results.get("revision"),
            metric_type=metric_of(task),
            metric_value=round(task[metric_of(task)], 4),
        )
        for subset, task in results.get("tasks", {}).items()
    ]


def _emissions(file: Path, *, from_scratch: bool) -> dict[str, Any] | None:
    """The Hub's `co2_eq_emissions`, from what codecarbon measured (`report_to: codecarbon`); None without it."""
    if not file.is_file():
        return None
    with file.open(encoding="utf-8", newline="") as lines:
        last = list(csv.DictReader(lines))[-1]
    return {
        "emissions": round(1000 * float(last["emissions"]), 3),  # grams; codecarbon writes kilograms
        "source": f"codecarbon: {float(last['energy_consumed']):.3g} kWh, {float(last['duration']) / 3600:.2f} hours",
        "training_type": "pre-training" if from_scratch else "fine-tuning",
        "geographical_location": last["country_name"],
        "hardware_used": last["gpu_model"] or last["cpu_model"],
    }
