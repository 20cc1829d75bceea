"""HTTP to a running server: JSON there and back, and one clear line for whatever goes wrong."""

from __future__ import annotations

import http.client
import json
import os
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llave_hf.errors import UserError

KEY_NAMES = ("LLAVE_API_KEY", "OPENAI_API_KEY")
TIMEOUT = 120.0  # seconds
MAX_BYTES = 256 * 2**20  # of one answer
_BUSY = (429, 503)
_TRIES = 4  # of a request that a busy server turns away
_LONGEST_WAIT = 10.0  # seconds before the next try
_SHOWN = 300  # characters of a server's message


@dataclass(frozen=True)
class Reply:
    """What a server answered.

    Attributes:
        status: The HTTP status; None where no whole answer came.
        content: The body as JSON; None where it is none.
        message: What the server, or the way to it, says of an error.
        late: It took longer than it may.
    """

    status: int | None
    content: Any = None
    message: str = ""
    late: bool = False

    @property
    def refused(self) -> bool:
        """The server understood, and does not do this."""
        return self.status is not None and 400 <= self.status < 500

    @property
    def told(self) -> str:
        """Status and message, for the user."""
        return f"HTTP {self.status}: {self.message}" if self.status is not None else self.message


class Client:
    """One server.

    Args:
        url: `http://host:port`; a path `/v1` at its end is taken off.
        key: Sent as a bearer token; None sends none.
        timeout: Seconds that one answer may take.

    Raises:
        UserError: The address is none.
    """

    def __init__(self, url: str, key: str | None = None, timeout: float = TIMEOUT) -> None:
        self.url = _checked(url)
        self.timeout = timeout
        self._headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if key is not None:
            self._headers["Authorization"] = f"Bearer {key}"
        handlers: list[urllib.request.BaseHandler] = [_NoRedirect()]
        if urllib.parse.urlsplit(self.url).hostname in ("localhost", "127.0.0.1", "::1"):
            handlers.append(urllib.request.ProxyHandler({}))
        self._opener = urllib.request.build_opener(*handlers)

    def get(self, path: str) -> Reply:
        """What lies at a path."""
        return self._send(urllib.request.Request(self.url + path, headers=self._headers))

    def post(self, path: str, body: Mapping[str, Any]) -> Reply:
        """The answer to a request; a server that is busy is asked again a few times.

        Raises:
            UserError: There is no server, or it wants another key.
        """
        data = json.dumps(body).encode()
        for left in reversed(range(_TRIES)):
            reply = self._send(urllib.request.Request(self.url + path, data, self._headers))
            if reply.status not in _BUSY or not left:
                break
            time.sleep(min(_LONGEST_WAIT, 2.0 ** (_TRIES - left - 1)))
        return reply

    def _send(self, request: urllib.request.Request) -> Reply:
        try:
            with self._opener.open(request, timeout=self.timeout) as answer:
                return self._read(answer.status, answer.read(MAX_BYTES + 1))
        except urllib.error.HTTPError as error:
            return self._read_error(error)
        except TimeoutError:
            return self._late()
        except urllib.error.URLError as error:
            if isinstance(error.reason, TimeoutError):
                return self._late()
            raise UserError(
                f"{self.url} cannot be reached ({error.reason}); is the server running, and is this its address?"
            ) from error
        except (http.client.HTTPException, ConnectionError) as error:
            return Reply(None, message=f"the connection broke off ({type(error).__name__}: {error})")

    def _late(self) -> Reply:
        return Reply(None, message=f"no answer within {self.timeout:g} seconds (--timeout)", late=True)

    def _read(self, status: int, body: bytes) -> Reply:
        if len(body) > MAX_BYTES:
            return Reply(None, message=f"the answer is longer than {MAX_BYTES} bytes")
        try:
            return Reply(status, json.loads(body))
        except ValueError:
            return Reply(None, message=f"the answer is no JSON but begins {_start(body)!r}")

    def _read_error(self, error: urllib.error.HTTPError) -> Reply:
        if 300 <= error.code < 400:
            to = error.headers.get("Location", "elsewhere")
            raise UserError(f"{self.url} redirects to {to}: give that server's own address to --url.")
        try:
            body = error.read(MAX_BYTES)
        except (OSError, http.client.HTTPException):
            body = b""
        message = _message(body)
        if error.code in (401, 403):
            names = " or ".join(KEY_NAMES)
            raise UserError(
                f"{self.url} wants another API key (HTTP {error.code}: {message}); put it into the environment as "
                f"{names}, or name its variable with --api_key_env."
            )
        return Reply(error.code, message=message)


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """The key goes to the server that was named and to no other."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


def api_key(name: str | None) -> str | None:
    """The key from the environment.

    Args:
        name: Its variable; None takes the first of [`KEY_NAMES`] that is set.

    Raises:
        UserError: The variable that was named is not set.
    """
    if name is None:
        return next((os.environ[one] for one in KEY_NAMES if os.environ.get(one)), None)
    if not os.environ.get(name):
        raise UserError(f"--api_key_env names {name}, which is not set in the environment.")
    return os.environ[name]


def _checked(url: str) -> str:
    try:
        parts = urllib.parse.urlsplit(url)
        parts.port  # noqa: B018 - raises where it is no number
    except ValueError as error:
        raise UserError(f"--url {url!r} is no address ({error}); give http://HOST:PORT.") from error
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UserError(f"--url {url!r} is no address; give http://HOST:PORT.")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise UserError("--url takes an address alone; a key goes into the environment (see --api_key_env).")
    return f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/').removesuffix('/v1')}"


def _message(body: bytes) -> str:
    """What an error's body says: OpenAI's, vLLM's and FastAPI's forms, or its beginning."""
    try:
        content = json.loads(body)
    except ValueError:
        return _start(body) or "no message"
    for name in ("error", "detail", "message"):
        if isinstance(content, Mapping) and content.get(name):
            content = content[name]
    if isinstance(content, list) and content and isinstance(content[0], Mapping):  # FastAPI's: a list of faults
        content = "; ".join(f"{'.'.join(map(str, one.get('loc', ())))}: {one.get('msg')}" for one in content[:3])
    text = content if isinstance(content, str) else json.dumps(content)
    return " ".join(text.split())[:_SHOWN]


def _start(body: bytes) -> str:
    return " ".join(body[:200].decode("utf-8", "replace").split())[:80]
