"""A fresh process: imports packages in a given order, opens folders with what is named first, then with all the rest.

python import_worker.py llave_hf,transformers,sentence_transformers AutoModel FOLDER PUBLISHED
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable
from typing import Any


def openers(folder: str) -> dict[str, Callable[[], Any]]:
    """What opens a folder, by name; each imports no more than a user who writes that one line."""

    def auto(name: str) -> Callable[[], Any]:
        return lambda: getattr(importlib.import_module("transformers"), name).from_pretrained(folder)

    def pipeline() -> Any:
        from transformers import pipeline

        return pipeline("feature-extraction", model=folder).model

    def sentence_transformer() -> Any:
        from sentence_transformers import SentenceTransformer

        return SentenceTransformer(folder)[0].auto_model

    names = ("AutoConfig", "AutoModel", "AutoProcessor", "AutoTokenizer")
    return {**{name: auto(name) for name in names}, "pipeline": pipeline, "SentenceTransformer": sentence_transformer}


def main() -> None:
    packages, first, folder, published = sys.argv[1:]
    for package in packages.split(","):
        importlib.import_module(package)
    ways = openers(folder)
    opened = {name: type(ways[name]()) for name in (first, *(name for name in ways if name != first))}
    ways = openers(published)
    opened |= {f"published {name}": type(ways[name]()) for name in ("AutoModel", "AutoProcessor", "AutoConfig")}

    import pickle

    from transformers import CONFIG_MAPPING, MODEL_MAPPING

    import llave_hf

    same = {
        "AutoConfig": opened["AutoConfig"] is llave_hf.LlaveConfig,
        "AutoModel": opened["AutoModel"] is llave_hf.LlaveModel,
        "AutoProcessor": opened["AutoProcessor"] is llave_hf.LlaveProcessor,
        "CONFIG_MAPPING": CONFIG_MAPPING["llave"] is llave_hf.LlaveConfig,
        "MODEL_MAPPING": MODEL_MAPPING[llave_hf.LlaveConfig] is llave_hf.LlaveModel,
        "pickled": pickle.loads(pickle.dumps(CONFIG_MAPPING))["llave"] is llave_hf.LlaveConfig,
    }
    print(json.dumps({"opened": {name: kind.__name__ for name, kind in opened.items()}, "same": same}))


if __name__ == "__main__":
    main()
