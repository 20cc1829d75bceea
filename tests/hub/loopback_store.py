"""Model repositories as the Hub keeps them: branches, commits, files by content, and who may read and write."""

from __future__ import annotations

import base64
import hashlib
import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

LFS_FORMS = (".safetensors", ".png")  # as .gitattributes of a new repository on the Hub names them


class Refused(Exception):
    """A request that the Hub answers with an error."""

    def __init__(self, status: int, message: str, code: str = "") -> None:
        super().__init__(message)
        self.status, self.message, self.code = status, message, code


@dataclass(frozen=True)
class Blob:
    data: bytes
    lfs: bool

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()

    @property
    def git_oid(self) -> str:
        return hashlib.sha1(b"blob %d\0" % len(self.data) + self.data).hexdigest()

    def entry(self, path: str) -> dict[str, Any]:
        """As the tree endpoint lists a file."""
        lfs = {"lfs": {"oid": self.sha256, "size": len(self.data), "pointerSize": 130}} if self.lfs else {}
        return {"type": "file", "path": path, "size": len(self.data), "oid": self.git_oid, **lfs}


Files = dict[str, Blob]


@dataclass
class Repository:
    private: bool
    commits: dict[str, Files]
    branches: dict[str, str]
    messages: list[str] = field(default_factory=list)

    def sha(self, revision: str) -> str:
        found = self.branches.get(revision, revision)
        if found not in self.commits:
            raise Refused(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return found

    def files(self, revision: str = "main") -> Files:
        """Of a branch or commit, git's own apart."""
        return {path: blob for path, blob in self.commits[self.sha(revision)].items() if path != ".gitattributes"}


@dataclass
class Store:
    """All repositories, and tokens: the owners that each may write to."""

    tokens: Mapping[str, Iterable[str]]
    repositories: dict[str, Repository] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)
    _counter: itertools.count[int] = field(default_factory=lambda: itertools.count(1))

    def _new_sha(self) -> str:
        return hashlib.sha1(str(next(self._counter)).encode()).hexdigest()

    def create(self, name: str, *, private: bool = False, files: Mapping[str, bytes] | None = None) -> Repository:
        if name in self.repositories:
            raise Refused(409, "You already created this model repo")
        content = {path: Blob(data, path.endswith(LFS_FORMS)) for path, data in (files or {}).items()}
        sha = self._new_sha()
        first = {".gitattributes": Blob(b"*.safetensors filter=lfs\n", False), **content}
        self.repositories[name] = Repository(private, {sha: first}, {"main": sha})
        return self.repositories[name]

    def readable(self, name: str, token: str | None) -> Repository:
        found = self.repositories.get(name)
        if token is not None and token not in self.tokens:
            raise Refused(401, "Invalid credentials in Authorization header")
        if found is None or (found.private and name.split("/")[0] not in self.tokens.get(token or "", ())):
            raise Refused(404 if token else 401, "Repository not found", "RepoNotFound")
        return found

    def may_write(self, name: str, token: str | None) -> None:
        if token not in self.tokens:
            raise Refused(401, "Invalid credentials in Authorization header")
        if name.split("/")[0] not in self.tokens[token]:
            raise Refused(403, f"You don't have the rights to write to {name}")

    def commit(self, name: str, branch: str, lines: list[dict[str, Any]]) -> str:
        """Applies an NDJSON commit as a whole or not at all."""
        repository = self.repositories[name]
        header = next(line["value"] for line in lines if line["key"] == "header")
        head = repository.branches.get(branch)
        if head is None:
            raise Refused(404, f"Invalid rev id: {branch}", "RevisionNotFound")
        if header.get("parentCommit") not in (None, head):
            raise Refused(412, "A commit has happened since. Please refresh and try again.")
        files = dict(repository.commits[head])
        for line in lines:
            self._apply(files, line["key"], line["value"])
        sha = self._new_sha()
        repository.commits[sha] = files
        repository.branches[branch] = sha
        repository.messages.append(header["summary"])
        return sha

    def _apply(self, files: Files, key: str, value: dict[str, Any]) -> None:
        path = value.get("path", "")
        if key == "file":
            files[path] = Blob(base64.b64decode(value["content"]), False)
        elif key == "lfsFile":
            if value["oid"] not in self.objects or len(self.objects[value["oid"]]) != value["size"]:
                raise Refused(400, f"LFS object {value['oid']} of {path} was not uploaded")
            files[path] = Blob(self.objects[value["oid"]], True)
        elif key == "deletedFile" and files.pop(path, None) is None:
            raise Refused(404, "A file with this name doesn't exist", "EntryNotFound")
