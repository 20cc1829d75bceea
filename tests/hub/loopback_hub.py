"""A Hub on loopback: a real HTTP server with the endpoints that a push and a download ask for.

    with LoopbackHub(tokens={"hf_write": ["org"]}) as hub:
        subprocess.run([...], env={**os.environ, **hub.environment(home, token="hf_write")})

`huggingface_hub` reads its settings when it is imported, so whoever talks to the server runs in a process of its own.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import socket
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import yaml
from loopback_store import LFS_FORMS, Refused, Store


@dataclass
class Fault:
    """What goes wrong with the next requests that match.

    Attributes:
        status: Answered; 0 cuts the connection.
        after: Whether the request has its effect first.
    """

    method: str
    path: str
    status: int = 0
    times: int = 1
    after: bool = False
    meanwhile: Callable[[], object] | None = None


class LoopbackHub:
    """The server; `store` is what it keeps, `requests` what it was asked (`METHOD path`)."""

    def __init__(self, tokens: Mapping[str, Iterable[str]]) -> None:
        self.store = Store(tokens)
        self.requests: list[str] = []
        self.faults: list[Fault] = []
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (_Handler,), {"hub": self}))
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def __enter__(self) -> LoopbackHub:
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()

    def fail(self, method: str, path: str, **what: Any) -> None:
        """Plans a [`Fault`] for requests whose path matches a regular expression."""
        self.faults.append(Fault(method, path, **what))

    def environment(self, home: Path, token: str | None = None) -> dict[str, str]:
        """What a process needs to see this server as the Hub, with a cache of its own."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
        settings = {"HF_ENDPOINT": self.url, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1", "NO_PROXY": "127.0.0.1"}
        return {**kept, **settings, "OMP_NUM_THREADS": "1", **({"HF_TOKEN": token} if token else {})}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: LoopbackHub

    def log_message(self, format: str, *args: Any) -> None:
        """Silent."""

    def _handle(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append(f"{self.command} {path}")
        body = self._body()
        fault = next((f for f in self.hub.faults if f.method == self.command and re.search(f.path, path)), None)
        if fault is not None:
            fault.times -= 1
            if fault.times == 0:
                self.hub.faults.remove(fault)
            if fault.meanwhile is not None:
                fault.meanwhile()
            elif not fault.after:
                return self._broken(fault)
        try:
            answer = self._answer(path, body)
        except Refused as refused:
            error = {"X-Error-Code": refused.code, "X-Error-Message": refused.message}
            return self._send(refused.status, {"error": refused.message}, {k: v for k, v in error.items() if v})
        if fault is not None and fault.after:
            return self._broken(fault)
        return self._send(*answer)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _handle

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _broken(self, fault: Fault) -> None:
        if fault.status:
            return self._send(fault.status, {"error": "planned"})
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)
        return None

    def _send(self, status: int, content: Any = b"", headers: Mapping[str, str] | None = None) -> None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    @property
    def _token(self) -> str | None:
        return (self.headers.get("Authorization") or "").removeprefix("Bearer ") or None

    def _answer(self, path: str, body: bytes) -> tuple[Any, ...]:
        for method, form, answer in _ROUTES:
            found = re.fullmatch(form, path)
            if found and method in (self.command, "GET" if self.command == "HEAD" else ""):
                return answer(self, body, **found.groupdict())
        raise Refused(404, f"no such endpoint: {self.command} {path}")

    # ------------------------------------------------------------------------------------------------- endpoints

    def whoami(self, body: bytes) -> tuple[Any, ...]:
        if self._token not in self.hub.store.tokens:
            raise Refused(401, "Invalid credentials in Authorization header")
        return 200, {"type": "user", "name": "somebody", "auth": {"type": "access_token"}}

    def validate_card(self, body: bytes) -> tuple[Any, ...]:
        text = json.loads(body)["content"]
        found = yaml.safe_load(text.split("---\n")[1]) if text.startswith("---\n") else {}
        if not isinstance(found.get("license", ""), str):
            return 400, {"errors": [{"message": '"license" must be a string'}], "warnings": []}
        return 200, {"errors": [], "warnings": []}

    def create(self, body: bytes) -> tuple[Any, ...]:
        asked = json.loads(body)
        name = f"{asked['organization']}/{asked['name']}"
        self.hub.store.may_write(name, self._token)
        self.hub.store.create(name, private=asked.get("visibility") == "private" or bool(asked.get("private")))
        return 200, {"url": f"{self.hub.url}/{name}", "name": name}

    def delete(self, body: bytes) -> tuple[Any, ...]:
        asked = json.loads(body)
        name = f"{asked['organization']}/{asked['name']}"
        self.hub.store.may_write(name, self._token)
        del self.hub.store.repositories[name]
        return 200, {}

    def info(self, body: bytes, name: str, revision: str = "main") -> tuple[Any, ...]:
        repository = self.hub.store.readable(name, self._token)
        sha = repository.sha(revision)
        siblings = [{"rfilename": path} for path in repository.commits[sha]]
        facts = {"id": name, "modelId": name, "sha": sha, "private": repository.private, "siblings": siblings}
        return 200, {**facts, "tags": [], "downloads": 0, "likes": 0}

    def tree(self, body: bytes, name: str, revision: str, folder: str | None = None) -> tuple[Any, ...]:
        repository = self.hub.store.readable(name, self._token)
        files = repository.commits[repository.sha(revision)]
        found = [blob.entry(path) for path, blob in files.items() if path.startswith(f"{folder}/" if folder else "")]
        if folder and not found:
            raise Refused(404, f"{folder} does not exist", "EntryNotFound")
        return 200, found

    def refs(self, body: bytes, name: str) -> tuple[Any, ...]:
        branches = self.hub.store.readable(name, self._token).branches
        listed = [{"name": b, "ref": f"refs/heads/{b}", "targetCommit": sha} for b, sha in branches.items()]
        return 200, {"branches": listed, "converts": [], "tags": []}

    def branch(self, body: bytes, name: str, branch: str) -> tuple[Any, ...]:
        self.hub.store.may_write(name, self._token)
        repository = self.hub.store.readable(name, self._token)
        if self.command == "DELETE":
            del repository.branches[branch]
        elif branch in repository.branches:
            raise Refused(409, "Reference already exists")
        else:
            repository.branches[branch] = repository.sha(json.loads(body or b"{}").get("startingPoint", "main"))
        return 200, {}

    def preupload(self, body: bytes, name: str, revision: str) -> tuple[Any, ...]:
        self.hub.store.may_write(name, self._token)
        there = self.hub.store.readable(name, self._token).files(revision)
        files = []
        for asked in json.loads(body)["files"]:
            lfs = asked["path"].endswith(LFS_FORMS)
            blob = there.get(asked["path"])
            oid = (blob.sha256 if lfs else blob.git_oid) if blob else None
            mode = "lfs" if lfs else "regular"
            files.append({"path": asked["path"], "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        return 200, {"files": files}

    def lfs_batch(self, body: bytes, name: str) -> tuple[Any, ...]:
        self.hub.store.may_write(name, self._token)
        objects = []
        for asked in json.loads(body)["objects"]:
            actions = {"upload": {"href": f"{self.hub.url}/lfs/{asked['oid']}"}}
            known = asked["oid"] in self.hub.store.objects
            objects.append(asked if known else {**asked, "actions": actions})
        return 200, {"transfer": "basic", "objects": objects}

    def lfs_upload(self, body: bytes, oid: str) -> tuple[Any, ...]:
        if hashlib.sha256(body).hexdigest() != oid:
            raise Refused(400, "the content is not of the sha256 that was announced")
        self.hub.store.objects[oid] = body
        return (200,)

    def commit(self, body: bytes, name: str, revision: str) -> tuple[Any, ...]:
        self.hub.store.may_write(name, self._token)
        sha = self.hub.store.commit(name, revision, [json.loads(line) for line in body.splitlines()])
        return 200, {"success": True, "commitOid": sha, "commitUrl": f"{self.hub.url}/{name}/commit/{sha}"}

    def resolve(self, body: bytes, name: str, revision: str, file: str) -> tuple[Any, ...]:
        repository = self.hub.store.readable(name, self._token)
        sha = repository.sha(revision)
        blob = repository.commits[sha].get(file)
        if blob is None:
            raise Refused(404, "Entry not found", "EntryNotFound")
        etag = f'"{blob.sha256 if blob.lfs else blob.git_oid}"'
        linked = {"X-Linked-Size": str(len(blob.data)), "X-Linked-Etag": etag} if blob.lfs else {}
        return 200, blob.data, {"X-Repo-Commit": sha, "ETag": etag, **linked}


_NAME = r"(?P<name>[\w.-]+/[\w.-]+)"
_REVISION = r"(?P<revision>[^/]+)"
_ROUTES: tuple[tuple[str, str, Callable[..., tuple[Any, ...]]], ...] = (
    ("GET", "/api/whoami-v2", _Handler.whoami),
    ("POST", "/api/validate-yaml", _Handler.validate_card),
    ("POST", "/api/repos/create", _Handler.create),
    ("DELETE", "/api/repos/delete", _Handler.delete),
    ("GET", f"/api/models/{_NAME}", _Handler.info),
    ("GET", f"/api/models/{_NAME}/revision/{_REVISION}", _Handler.info),
    ("GET", f"/api/models/{_NAME}/tree/{_REVISION}(/(?P<folder>.+))?", _Handler.tree),
    ("GET", f"/api/models/{_NAME}/refs", _Handler.refs),
    ("POST", f"/api/models/{_NAME}/branch/(?P<branch>.+)", _Handler.branch),
    ("DELETE", f"/api/models/{_NAME}/branch/(?P<branch>.+)", _Handler.branch),
    ("POST", f"/api/models/{_NAME}/preupload/{_REVISION}", _Handler.preupload),
    ("POST", f"/api/models/{_NAME}/commit/{_REVISION}", _Handler.commit),
    ("POST", f"/{_NAME}.git/info/lfs/objects/batch", _Handler.lfs_batch),
    ("PUT", "/lfs/(?P<oid>[0-9a-f]{64})", _Handler.lfs_upload),
    ("GET", f"/{_NAME}/resolve/{_REVISION}/(?P<file>.+)", _Handler.resolve),
)
