"""What goes back to a client, in the form of OpenAI's servers: vectors, or what is wrong with the request."""

from __future__ import annotations

import base64
import json
from typing import Any

import torch
from starlette.responses import Response

INVALID, LIMITED, UNAVAILABLE = "invalid_request_error", "rate_limit_error", "service_unavailable"


class RequestError(Exception):
    """A request that is not answered with vectors.

    Args:
        message: What is wrong, where, and what to do.
        status: The HTTP status.
        kind: OpenAI's `type`.
        param: The field at fault.
        code: A word for programs.
        headers: To be sent too.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int = 400,
        kind: str = INVALID,
        param: str | None = None,
        code: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.kind, self.param, self.code, self.headers = status, kind, param, code, headers or {}

    def response(self) -> Response:
        """As it goes to the client."""
        error = {"message": str(self), "type": self.kind, "param": self.param, "code": self.code}
        return json_response({"error": error}, self.status, self.headers)


def busy(message: str, seconds: float) -> RequestError:
    """429: it may be asked again after so many seconds."""
    again = {"Retry-After": str(min(60, max(1, round(seconds))))}
    return RequestError(message, status=429, kind=LIMITED, code="queue_full", headers=again)


def json_response(content: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """JSON without blanks."""
    body = json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
    return Response(body, status, headers, media_type="application/json")


def answer_of(vectors: torch.Tensor, tokens: int, model: str, encoding: str) -> dict[str, Any]:
    """The answer of `/v1/embeddings`.

    Args:
        vectors: `(n, D)` float32.
        tokens: Of all inputs.
        model: The served name.
        encoding: `"float"`, or `"base64"` of little-endian float32.
    """
    if encoding == "base64":
        made: list[Any] = [base64.b64encode(row.tobytes()).decode() for row in vectors.numpy().astype("<f4")]
    else:
        made = vectors.tolist()
    data = [{"object": "embedding", "index": index, "embedding": vector} for index, vector in enumerate(made)]
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return {"object": "list", "data": data, "model": model, "usage": usage}
