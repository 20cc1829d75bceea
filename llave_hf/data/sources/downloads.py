"""Which of the data that `train_data` names are not here, and the commands that bring them.

What published data sets ask for beside a download stands in `published.yaml`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import constants, is_offline_mode

from .indexed import could_be_hub_id
from .specs import SourceSpec


@dataclass(frozen=True)
class Missing:
    """Data that are not here.

    Attributes:
        source: A Hub id, or the path of a source.
        what: Is not here, as the rest of a sentence.
        commands: That bring it; empty where nobody knows.
        needed: Whether a run could not begin without; else it would download the rows itself.
    """

    source: str
    what: str
    commands: tuple[str, ...]
    needed: bool

    def __str__(self) -> str:
        if not self.commands:
            return f"{self.source}: {self.what}; check the path"
        return "\n".join([f"{self.source}: {self.what}; bring it by", *(f"    {line}" for line in self.commands)])


def missing_data(specs: Sequence[SourceSpec]) -> list[Missing]:
    """What is not here of some sources, each once; whether files inside a `media_root` are there is not looked at."""
    found = (_missing(spec) for spec in specs)
    return list(dict.fromkeys(one for one in found if one is not None))


def _missing(spec: SourceSpec) -> Missing | None:
    hub_id, commands = _known(spec)
    lacks = []
    if spec.media_root is not None and not Path(spec.media_root).is_dir():
        lacks.append(f"there is no media_root {spec.media_root}")
    on_hub = not Path(spec.path).exists() and could_be_hub_id(spec.path)
    if not on_hub and not Path(spec.path).exists() and not any(mark in spec.path for mark in "*?[{"):
        lacks.append(f"there is no {spec.path}")
    if lacks:
        return Missing(hub_id or spec.path, " and ".join(lacks), commands, needed=True)
    if on_hub and not _in_cache(spec.path):
        download = commands or (f"hf download {spec.path} --repo-type dataset",)
        if is_offline_mode():
            return Missing(spec.path, "its rows are not in the cache, and the Hub may not be asked", download, True)
        return Missing(spec.path, "its rows are downloaded as the run begins", download, needed=False)
    return None


def _known(spec: SourceSpec) -> tuple[str | None, tuple[str, ...]]:
    root = spec.media_root or Path(spec.path).name
    for hub_id, entry in _published().items():
        if spec.path == hub_id or Path(spec.path).name in entry.get("files", ()):
            places = {"root": root, "above": str(Path(root).parent)}
            return hub_id, tuple(command.format(**places) for command in entry["commands"])
    return None, ()


def _in_cache(hub_id: str) -> bool:
    return (Path(constants.HF_HUB_CACHE) / f"datasets--{hub_id.replace('/', '--')}").is_dir()


@cache
def _published() -> dict[str, dict[str, Any]]:
    text = (files("llave_hf.data.sources") / "published.yaml").read_text(encoding="utf-8")
    content: dict[str, dict[str, Any]] = yaml.safe_load(text)
    return content
