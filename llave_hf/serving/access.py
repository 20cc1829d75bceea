"""The API key: one, from the environment, compared in constant time."""

from __future__ import annotations

import hmac
import os

from starlette.requests import Request

from llave_hf.errors import UserError

from .answers import RequestError

VARIABLE = "LLAVE_API_KEY"


def key_of_environment() -> str | None:
    """The key, or None where there is to be none; raises [`UserError`] for one that no header can hold."""
    key = os.environ.get(VARIABLE)
    if key is None:
        return None
    if not key:
        raise UserError(f"{VARIABLE} is set and empty; give it a key, or unset it to serve everybody.")
    if not key.isascii() or not key.isprintable() or key.strip() != key:
        raise UserError(f"{VARIABLE} cannot be sent in a header; use ASCII letters, digits and signs.")
    return key


def check_key(request: Request, key: str | None) -> None:
    """Raises [`RequestError`] (401) for a request without the key."""
    if key is None:
        return
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    is_right = hmac.compare_digest(given.strip().encode("latin-1"), key.encode())
    if scheme.lower() != "bearer" or not is_right:
        raise RequestError(
            "the API key is missing or wrong; send the header Authorization: Bearer KEY.",
            status=401,
            code="invalid_api_key",
            headers={"WWW-Authenticate": "Bearer"},
        )
