"""What a server says of itself: its models, their longest sequence, and its paths."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from llave_hf.errors import UserError

from .client import Client
from .forms import COHERE, OPENAI


@dataclass(frozen=True)
class Offers:
    """What a server offers.

    Attributes:
        model: The name to ask for; None where the server names none and nobody gave one.
        listed: Whether the server named it itself.
        limit: Longest sequence in tokens, where it is told.
        paths: Its paths; None where they are not told.
    """

    model: str | None = None
    listed: bool = False
    limit: int | None = None
    paths: frozenset[str] | None = None

    def lacks(self, path: str) -> bool:
        """Whether the server is known not to have a path."""
        return self.paths is not None and path not in self.paths


def discover(client: Client, model: str | None) -> Offers:
    """Asks `/v1/models` and `/openapi.json`.

    Args:
        client: The server.
        model: Its name for the model; None takes the only one.

    Raises:
        UserError: It cannot be reached, or the name is none of its models', or it has several and none was named.
    """
    reply = client.get("/v1/models")
    listed = reply.content.get("data") if isinstance(reply.content, Mapping) else None
    models = {
        entry["id"]: entry
        for entry in (listed if isinstance(listed, list) else ())
        if isinstance(entry, Mapping) and isinstance(entry.get("id"), str)
    }
    if model is None and len(models) > 1:
        raise UserError(f"{client.url} serves several models ({', '.join(models)}); name one with --model.")
    if model is not None and models and model not in models:
        raise UserError(f"{client.url} serves no model {model!r} but {', '.join(models)}; name one with --model.")
    name = model if model is not None else next(iter(models), None)
    told = models.get(name or "", {}).get("max_model_len")
    limit = told if isinstance(told, int) and told > 0 else None
    return Offers(name, name in models, limit, _paths(client))


def _paths(client: Client) -> frozenset[str] | None:
    content = client.get("/openapi.json").content
    paths = content.get("paths") if isinstance(content, Mapping) else None
    if not isinstance(paths, Mapping):
        return None
    found = frozenset(paths)
    return found if found & {OPENAI, COHERE} else None  # a gateway's page says nothing of what is behind it
