"""Refuses files that run code when opened, are not what they are named, or tell of their maker's machine."""

from __future__ import annotations

import json
import os
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from safetensors import SafetensorError, safe_open

from .publication import RECORDS, SAVE_AGAIN, Publication, is_local_path

PICKLED = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib", ".dill", ".npy", ".npz")
_SECRETS = {
    "a Hugging Face token": r"\bhf_[A-Za-z0-9]{30,}",
    "a GitHub token": r"\bgh[pousr]_[A-Za-z0-9]{36}",
    "an AWS key": r"\bAKIA[0-9A-Z]{16}\b",
    "a private key": r"-----BEGIN [A-Z ]*PRIVATE KEY-----",
    "a password in an address": r"\b[a-z][a-z0-9+]*://[^\s/:@]+:[^\s/@]+@",
}
_HOMES = re.compile(r"(?<![\w.:/])(/home/|/Users/|/root/|[A-Z]:\\Users\\)[^\s`'\")]+")


def pickles(publication: Publication) -> Iterator[str]:
    """Of the whole folder but checkpoints, which are there to resume from and never published."""
    root = publication.root
    for folder, folders, files in os.walk(root):
        if Path(folder) == root:
            folders[:] = [name for name in folders if not name.startswith("checkpoint-")]
        for name in sorted(files):
            path = Path(folder, name)
            if path.suffix.lower() in PICKLED or _is_pickle(path):
                yield f"{path.relative_to(root)} is or may hold a pickle, which runs code when opened: remove it."


def _is_pickle(path: Path) -> bool:
    """By content: protocols 2 to 5, and torch's and numpy's archives of them."""
    with path.open("rb") as file:
        start = file.read(8)
    if start[:1] == b"\x80" and start[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05") and path.suffix != ".safetensors":
        return True
    if start[:4] != b"PK\x03\x04" or not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith((".pkl", ".npy")) for name in archive.namelist())


def contents(publication: Publication) -> Iterator[str]:
    """Each file is what its name says."""
    for name in publication.contents:
        suffix = PurePosixPath(name).suffix
        if suffix == ".safetensors":
            try:
                with safe_open(publication.root / name, framework="pt"):
                    pass
            except (SafetensorError, OSError) as error:
                yield f"{name} cannot be opened ({error}): {SAVE_AGAIN}."
        elif suffix == ".png":
            if not publication.read(name).startswith(b"\x89PNG\r\n\x1a\n"):
                yield f"{name} is no PNG: remove it, or write it anew with `llave card`."
        else:
            try:
                publication.read(name).decode("utf-8")
            except UnicodeDecodeError:
                yield f"{name} is no text in UTF-8: remove it."


def secrets(publication: Publication) -> Iterator[str]:
    """Tokens and passwords in any text, by their form."""
    for name in _texts(publication):
        lines = publication.text(name).splitlines()
        for what, form in _SECRETS.items():
            at = [number for number, line in enumerate(lines, 1) if re.search(form, line)]
            if at:
                yield f"{name}, line {at[0]}, holds {what}: remove it there, and revoke it if others may have seen it."


def local_paths(publication: Publication) -> Iterator[str]:
    """What [`collect`] could not shorten: fields that are read when a model is opened, and text."""
    for name in _texts(publication):
        if name.endswith(".json") and name not in (*RECORDS, "tokenizer.json", "vocab.json", "fingerprint.json"):
            for where, value in _fields(json.loads(publication.text(name)), ""):
                if is_local_path(value):
                    yield f"{name}: {where} is the local path {value}: remove it."
        elif name.endswith(".md"):
            for number, line in enumerate(publication.text(name).splitlines(), 1):
                found = _HOMES.search(line)
                if found:
                    yield f"{name}, line {number}, names the local path {found[0]}: take it out."


def _fields(value: Any, where: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, (dict, list)):
        for key, entry in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _fields(entry, f"{where}.{key}" if where else str(key))
    else:
        yield where, value


def _texts(publication: Publication) -> list[str]:
    """Files that are text; others are reported by [`contents`]."""
    names = [name for name in publication.contents if PurePosixPath(name).suffix not in (".safetensors", ".png")]
    return [name for name in names if b"\0" not in publication.read(name)]
