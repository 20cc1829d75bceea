"""What must be true of a folder before anything of it is published: whole, described, and safe to hand out."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import yaml
from huggingface_hub import ModelCard

from llave_hf.runtime.places import is_hub_id

from .publication import SAVE_AGAIN, Publication
from .safety import contents, local_paths, pickles, secrets

_NEEDED = {
    "model.safetensors": "weights",
    "processor_config.json": "processor",
    "tokenizer.json": "tokenizer",
    "modules.json": "layout for sentence-transformers",
}


def problems(publication: Publication) -> list[str]:
    """All that is wrong with a folder, a line each that says what to do; empty where it can be published."""
    checks = (_missing, pickles, contents, secrets, local_paths, _card)
    return [problem for check in checks for problem in check(publication)]


def _missing(publication: Publication) -> Iterator[str]:
    names = set(publication.contents)
    if (publication.root / "adapter_config.json").exists():
        yield "it holds an adapter, not a whole model: `llave merge` makes one."
        return
    if "config.json" not in names:
        yield "no config.json: give the folder of a trained, converted or merged model."
        return
    kind = json.loads(publication.read("config.json")).get("model_type")
    if kind != "llave":
        yield f"config.json is of a {kind!r} model, not of a llave model: `llave convert` or `llave init` makes one."
    index = "model.safetensors.index.json"
    needed = dict(_NEEDED)
    if index in names:
        del needed["model.safetensors"]
        shards = set(json.loads(publication.read(index))["weight_map"].values())
        needed |= dict.fromkeys(sorted(shards), f"weights, named in {index}")
    for name, what in needed.items():
        if name not in names:
            yield f"no {name} ({what}): {SAVE_AGAIN}."
    yield from _missing_code(publication)


def _missing_code(publication: Publication) -> Iterator[str]:
    """`auto_map` and the travelling files name each other; without one, trust_remote_code fails for everybody else."""
    wanted = set()
    for name in ("config.json", "processor_config.json"):
        if name in publication.contents:
            references = json.loads(publication.read(name)).get("auto_map") or {}
            wanted |= {f"{reference.split('.')[0]}.py" for reference in references.values()}
            if not references:
                yield f"{name} has no auto_map, so the model opens only where llave_hf is installed: {SAVE_AGAIN}."
    for name in publication.contents:
        if name.endswith(".py"):
            wanted |= {f"{found}.py" for found in re.findall(r"(?m)^\s*from \.(\w+) import", publication.text(name))}
    for name in sorted(wanted - set(publication.contents)):
        yield f"no {name}, which its other files import: {SAVE_AGAIN}."


def _card(publication: Publication) -> Iterator[str]:
    if "README.md" not in publication.contents:
        yield "no README.md: `llave card` writes the card."
        return
    text = publication.text("README.md")
    try:
        data = ModelCard(text).data.to_dict()
    except (ValueError, TypeError, KeyError, yaml.YAMLError) as error:
        yield f"README.md: its front matter cannot be read ({' '.join(str(error).split())}): mend it."
        return
    for name in ("pipeline_tag", "library_name"):
        if not data.get(name):
            yield f"README.md: its front matter has no {name}, by which the Hub files it: add it."
    for name in ("base_model", "datasets"):
        named = data.get(name) or []
        for value in named if isinstance(named, list) else [named]:
            if not is_hub_id(value):
                yield f"README.md: {name} names {value!r}, which is no Hub id: take it out."
    for target in re.findall(r"!\[[^]]*\]\(([^)\s]+)\)", text):
        if "://" not in target and target not in publication.contents:
            yield f"README.md shows {target}, which is not published: `llave card` draws it anew, or take it out."
