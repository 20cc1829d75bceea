"""What is wrong with a request, in the form in which OpenAI's servers say it."""

from __future__ import annotations

import json
from typing import Any

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
