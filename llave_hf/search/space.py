"""A folder that is a Hugging Face Space: the page, the collection, its files, and the model if it is a folder."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

import jinja2
import pyarrow as pa

from llave_hf.errors import UserError
from llave_hf.runtime.version import __version__

from .collection import Collection
from .listing import counts_line
from .store import Store

TEMPLATES = Path(__file__).parent / "space_templates"
REQUIREMENT = f"llave-hf[app]>={__version__}"
# What training leaves in a folder and no model needs; some of it tells where things lay on the trainer's disk.
_NO_PART_OF_A_MODEL = (
    *("checkpoint-*", "initial", "assets", "runs", "eval*", "telemetry*", "trainer_state.json", "training_args*"),
    *("recipe.yaml", "*.png", "*.pt", "*.bin", ".*"),
)


def write_space(
    collection: Collection,
    folder: str | os.PathLike[str],
    *,
    model: str | None = None,
    title: str = "Search",
    requirement: str = REQUIREMENT,
) -> Path:
    """Writes app.py, requirements.txt, README.md, `collection/` and `files/`; `model/` where the model is a folder.

    Only files that the collection holds are copied. Whoever may see the Space may see all of them.

    Args:
        collection: Up to date with its folders.
        folder: New or empty.
        model: A folder or Hub id. None: what the collection was made with.
        title: Of the page.
        requirement: How pip finds llave_hf: `llave-hf[app] @ git+https://…`, for example.

    Raises:
        UserError: `folder` holds something, or a file of the collection is no longer there.
    """
    target = Path(folder)
    if target.exists() and any(target.iterdir()):
        raise UserError(f"{target} is not empty; name a new folder for the Space.")
    source = model or collection.model_name
    is_local = os.path.isdir(source)
    roots = _copy_files(collection, target)
    _copy_collection(collection, target / "collection", "../model" if is_local else source, roots)
    if is_local:
        shutil.copytree(source, target / "model", ignore=shutil.ignore_patterns(*_NO_PART_OF_A_MODEL))
    values = {
        "title": title,
        "model": None if is_local else source,
        "requirement": requirement,
        "content": counts_line(collection.counts()),
        "version": __version__,
        "gradio": version("gradio"),
        "python": ".".join(platform.python_version_tuple()[:2]),
    }
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), trim_blocks=True, keep_trailing_newline=True
    )
    for name in environment.list_templates():
        content = environment.get_template(name).render(values)
        (target / name.removesuffix(".jinja")).write_text(content, encoding="utf-8")
    return target


def _copy_files(collection: Collection, target: Path) -> dict[str, str]:
    """Copies the files; gives each folder's name in the tables the one that it has in the Space's."""
    roots = {}
    for number, (root, paths) in enumerate(collection.files().items()):
        roots[root] = f"../files/{number}"
        for path in paths:
            copy = target / "files" / str(number) / path
            copy.parent.mkdir(parents=True, exist_ok=True)
            try:
                shutil.copyfile(collection.resolve(root) / path, copy)
            except FileNotFoundError as error:
                raise UserError(
                    f"{error.filename} is no longer there; run llave index, then write the Space."
                ) from error
    return roots


def _copy_collection(collection: Collection, target: Path, model: str, roots: Mapping[str, str]) -> None:
    """A new one with the same rows: a copy of the tables' folder would tell the paths of this machine."""
    rows = collection.store.read(collection.store.schema.names)
    place = rows.schema.get_field_index("root")
    moved = pa.array([roots[root] for root in rows["root"].to_pylist()], pa.string())
    copy = Store(str(target.absolute()))
    copy.create({**collection.store.settings, "model": model}, collection.store.dimension)
    copy.replace("", [], rows.set_column(place, "root", moved), [])
    copy.tidy(0 if collection.store.has_index else sys.maxsize)
