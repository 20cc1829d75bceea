"""Cards of the models that the LLaVE paper published: `python -m llave_hf.hub.published model_cards`.

The numbers stand in `published.yaml`; the cards say that they are the paper's and not measured here.
"""

from __future__ import annotations

import os
import sys
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import EvalResult, ModelCardData

from llave_hf.hub.card.metadata import TAGS
from llave_hf.hub.card.model_card import render

MARKER = "<!-- card written by llave_hf: `python -m llave_hf.hub.published model_cards` writes it anew -->"


def write_published_cards(folder: str | os.PathLike[str]) -> list[Path]:
    """Writes one card a published model, `<name>.md`, into a folder, which is made where it is missing."""
    root = Path(folder)
    root.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, text in render_published_cards().items():
        paths.append(root / f"{name}.md")
        paths[-1].write_text(text, encoding="utf-8")
    return paths


def render_published_cards() -> dict[str, str]:
    """The cards' texts by model name."""
    facts = yaml.safe_load(files("llave_hf.hub").joinpath("published.yaml").read_text(encoding="utf-8"))
    return {name: render(_variables(name, model, facts)) for name, model in facts["models"].items()}


def _variables(name: str, model: dict[str, Any], facts: dict[str, Any]) -> dict[str, Any]:
    repository = model["repository"]
    return {
        "name": name,
        "marker": MARKER,
        "front_matter": _front_matter(name, model, facts),
        "dimension": model["dimension"],
        "max_length": f"{facts['max_length']:,}",
        "base_model": model["base_model"],
        "model_id": name,
        "notice": (
            f"This card describes [{repository}](https://huggingface.co/{repository}) as its paper does. All numbers "
            "are the paper's; none was measured with llave_hf."
        ),
        "use_notice": _use_notice(name, model["repository"], model["recipe"]),
        "recipe": list({**facts["training"], **model["training"]}.items()),
        "paper_url": facts["paper_url"],
        "reported_columns": facts["columns"],
        "reported": [
            {"name": f"**{name}**", "scores": model["scores"]},
            {"name": f"VLM2Vec on {model['base_name']}, trained by the paper's authors", "scores": model["baseline"]},
        ],
    }


def _use_notice(name: str, repository: str, recipe: str | None) -> str:
    trained = "" if recipe is None else f" `{recipe}` trains such a model."
    return (
        f"`{name}` below is the folder that `llave convert {repository} {name}` writes. With llave_hf installed, "
        f"`AutoModel` and `AutoProcessor` open `{repository}` itself, too.{trained}"
    )


def _front_matter(name: str, model: dict[str, Any], facts: dict[str, Any]) -> str:
    results = [
        EvalResult(
            task_type="retrieval",
            dataset_type="TIGER-Lab/MMEB-eval",
            dataset_name=f"MMEB {column}",
            dataset_config=column,
            metric_type="precision_at_1",
            metric_value=round(score / 100, 4),
            source_name="LLaVE paper, Table 2",
            source_url=facts["paper_url"],
        )
        for column, score in zip(facts["columns"], model["scores"], strict=True)
    ]
    data = ModelCardData(
        library_name="sentence-transformers",
        pipeline_tag="feature-extraction",
        tags=list(TAGS),
        base_model=model["base_model"],
        datasets=[facts["dataset"]],
        model_name=name,
        eval_results=results,
    )
    return data.to_yaml(line_break="\n") + "\n"


if __name__ == "__main__":
    write_published_cards(sys.argv[1] if len(sys.argv) > 1 else "model_cards")
