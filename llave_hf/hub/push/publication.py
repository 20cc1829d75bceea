"""What of a model folder is published: an explicit list, and nothing beside it."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from llave_hf.hub.card.model_card import MARKER

# By the form of their paths; `*` is within one name. A folder's other files stay where they are.
PUBLISHED = (
    "config.json",
    "model.safetensors",
    "model-*-of-*.safetensors",
    "model.safetensors.index.json",
    "processor_config.json",
    "preprocessor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "modules.json",
    "config_sentence_transformers.json",
    "sentence_bert_config.json",
    "[0-9]*_*/config.json",
    "*_llave.py",
    "fingerprint.json",
    "README.md",
    "LICENSE*",
    "NOTICE*",
    "recipe.yaml",
    "training_args.json",
    "trainer_state.json",
    "telemetry.json",
    "assets/*.png",
    "eval/results.json",
    "eval/results.md",
    "eval/results.png",
    ".eval_results/*.yaml",
)
# What a run wrote down about itself: local folders in these mean nothing to a reader and are published by name only.
RECORDS = ("recipe.yaml", "training_args.json", "trainer_state.json", "eval/results.json")

SAVE_AGAIN = "save model and processor there again: save_pretrained"

_LOCAL_PATH = re.compile(r"(/[^/\s]+/|~/|\\\\|file:|[A-Za-z]:[\\/]).+")


@dataclass(frozen=True)
class Publication:
    """The files to publish.

    Attributes:
        root: The model folder.
        contents: By their path in the repository: a file, or bytes where what is published differs from the file.
        shortened: Fields whose local folder is published by its name only, `file: field`.
        left_out: Files and folders at the top that are not published.
    """

    root: Path
    contents: dict[str, Path | bytes]
    shortened: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)

    def size(self, name: str) -> int:
        """Bytes."""
        content = self.contents[name]
        return len(content) if isinstance(content, bytes) else content.stat().st_size

    def read(self, name: str) -> bytes:
        content = self.contents[name]
        return content if isinstance(content, bytes) else content.read_bytes()

    def text(self, name: str) -> str:
        return self.read(name).decode("utf-8", errors="replace")


def is_published(path: str) -> bool:
    """Whether a path in a folder or repository is one that [`collect`] takes."""
    parts = PurePosixPath(path).parts
    return any(len(parts) == len(PurePosixPath(form).parts) and PurePosixPath(path).match(form) for form in PUBLISHED)


def collect(root: Path, repo_id: str) -> Publication:
    """The files of a model folder as a repository is to have them.

    The card's snippets get the repository's id, and the run's records lose their local folders. The folder itself
    stays as it is.
    """
    names = sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())
    publication = Publication(root, {name: root / name for name in names if is_published(name)})
    for name in RECORDS:
        if name in publication.contents:
            _shorten(publication, name)
    if "README.md" in publication.contents:
        publication.contents["README.md"] = _addressed(root, repo_id).encode()
    tops = {PurePosixPath(name).parts[0] for name in publication.contents}
    publication.left_out.extend(
        f"{path.name}/" if path.is_dir() else path.name for path in sorted(root.iterdir()) if path.name not in tops
    )
    return publication


def is_local_path(value: Any) -> bool:
    """Whether a field's value is an absolute path of some machine."""
    return isinstance(value, str) and "\n" not in value and bool(_LOCAL_PATH.fullmatch(value))


def _shorten(publication: Publication, name: str) -> None:
    text = publication.text(name)
    as_json = name.endswith(".json")
    found: list[str] = []
    content = _by_name_only(json.loads(text) if as_json else yaml.safe_load(text), "", found)
    if found:
        written = json.dumps(content, indent=2) + "\n" if as_json else yaml.safe_dump(content, sort_keys=False)
        publication.contents[name] = written.encode()
        publication.shortened.extend(f"{name}: {where}" for where in found)


def _by_name_only(value: Any, where: str, found: list[str]) -> Any:
    """The value with each local path replaced by its last name; their fields are added to `found`."""
    if isinstance(value, dict):
        return {key: _by_name_only(entry, f"{where}.{key}" if where else key, found) for key, entry in value.items()}
    if isinstance(value, list):
        return [_by_name_only(entry, f"{where}[{number}]", found) for number, entry in enumerate(value)]
    if not is_local_path(value):
        return value
    found.append(where)
    return re.split(r"[\\/]", value.rstrip("\\/"))[-1]


def _addressed(root: Path, repo_id: str) -> str:
    """The card, its snippets and its title with the repository's id in place of the folder's name."""
    text = (root / "README.md").read_bytes().decode("utf-8", errors="replace")
    if MARKER not in text:
        return text
    folder, name = re.escape(root.resolve().name), repo_id.split("/")[1]
    text = re.sub(rf'((?:SentenceTransformer|from_pretrained)\("){folder}("\))', rf"\g<1>{repo_id}\g<2>", text)
    text = re.sub(rf"^(model-index:\n- name: ){folder}$", rf"\g<1>{name}", text, flags=re.MULTILINE)
    return re.sub(rf"^# {folder}$", f"# {name}", text, flags=re.MULTILINE)
