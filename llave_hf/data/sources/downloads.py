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

from .files import is_pattern
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
        specs: The sources that ask for them.
    """

    source: str
    what: str
    commands: tuple[str, ...]
    needed: bool
    specs: tuple[SourceSpec, ...]

    def __str__(self) -> str:
        if not self.commands:
            return f"{self.source}: {self.what}; check the path"
        return "\n".join([f"{self.source}: {self.what}; bring it by", *(f"    {line}" for line in self.commands)])


def missing_data(specs: Sequence[SourceSpec]) -> list[Missing]:
    """What is not here of some sources, one entry for what the same commands bring.

    Of pictures and frames that lie in a `media_root`, it looks whether they are unpacked, not for each.
    """
    lacks: dict[tuple[str, tuple[str, ...], bool], list[tuple[SourceSpec, list[str]]]] = {}
    for spec in specs:
        hub_id, entry = _published(spec)
        commands = _commands(spec, entry)
        if here := _not_here(spec, entry):
            lacks.setdefault((hub_id or spec.path, commands, True), []).append((spec, here))
        elif _only_on_hub(spec) and not _in_cache(spec.path):
            download = commands or (f"hf download {spec.path} --repo-type dataset",)
            what = "its rows are downloaded as the run begins"
            if is_offline_mode():
                what = "its rows are not in the cache, and the Hub may not be asked"
            lacks.setdefault((spec.path, download, is_offline_mode()), []).append((spec, [what]))
    return [
        Missing(
            source,
            ", ".join(dict.fromkeys(part for _, what in found for part in what)),
            commands,
            needed,
            tuple(spec for spec, _ in found),
        )
        for (source, commands, needed), found in lacks.items()
    ]


def _not_here(spec: SourceSpec, entry: dict[str, Any]) -> list[str]:
    root = spec.media_root
    lacks = []
    if root is not None and not Path(root).is_dir():
        lacks.append(f"there is no media_root {root}")
    elif (
        root is not None
        and "unpacked" in entry
        and not any(one.is_dir() for one in Path(root).glob(entry["unpacked"]))
    ):
        lacks.append(f"nothing is unpacked in media_root {root}")
    if not Path(spec.path).exists() and not could_be_hub_id(spec.path) and not is_pattern(spec.path):
        lacks.append(f"there is no {spec.path}")
    return lacks


def _only_on_hub(spec: SourceSpec) -> bool:
    return not Path(spec.path).exists() and could_be_hub_id(spec.path)


def _published(spec: SourceSpec) -> tuple[str | None, dict[str, Any]]:
    """The Hub id and the entry of a source that `published.yaml` knows."""
    for hub_id, entry in _entries().items():
        if spec.path == hub_id or Path(spec.path).name in entry.get("files", ()):
            return hub_id, entry
    return None, {}


def _commands(spec: SourceSpec, entry: dict[str, Any]) -> tuple[str, ...]:
    root = spec.media_root or Path(spec.path).name
    places = {"root": root, "above": str(Path(root).parent)}
    return tuple(command.format(**places) for command in entry.get("commands", ()))


def _in_cache(hub_id: str) -> bool:
    return (Path(constants.HF_HUB_CACHE) / f"datasets--{hub_id.replace('/', '--')}").is_dir()


@cache
def _entries() -> dict[str, dict[str, Any]]:
    text = (files("llave_hf.data.sources") / "published.yaml").read_text(encoding="utf-8")
    content: dict[str, dict[str, Any]] = yaml.safe_load(text)
    return content
