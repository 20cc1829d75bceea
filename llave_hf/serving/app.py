"""The application: `/v1/embeddings`, `/v1/models`, `/health`, `/metrics` and their OpenAPI page."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import torch
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi_offline import FastAPIOffline
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from llave_hf.runtime.version import __version__

from .access import check_key
from .answers import RequestError, answer_of, json_response
from .batching import ModelFailure
from .bodies import Bodies
from .inputs import prompt_of, read_inputs
from .metrics import Observed
from .queue import Answer
from .requests import EmbeddingRequest, read_request
from .state import ServerState

_BACKGROUND = 1 << 18  # bytes of a body, or numbers of an answer, that are worth a thread of their own
_CLIENT_GONE = 499  # by nginx' convention; nobody reads it but the metrics

logger = logging.getLogger(__name__)


def build_app(state: ServerState) -> FastAPI:
    """The application of a server, whose threads end with it."""

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(state.close)

    app = FastAPIOffline(
        title=f"llave serve {state.name}",
        version=__version__,
        lifespan=lifespan,
        redoc_url=None,
        static_url="/docs/files",
        swagger_ui_parameters={"validatorUrl": None},  # else the page asks a server of Swagger's about the schema
    )
    bodies = Bodies(state.limits, state.metrics)
    schema = EmbeddingRequest.model_json_schema(ref_template="#/components/schemas/{model}")
    parts = schema.pop("$defs", {})
    body_schema = {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}

    @app.post("/v1/embeddings", openapi_extra=body_schema)
    async def embeddings(request: Request) -> Response:
        """Vectors of texts (`input`), or of a conversation with pictures and a video (`messages`)."""
        check_key(request, state.key)
        batcher = state.batcher
        async with bodies.of(request) as body:
            asked = await _in_background(len(body), read_request, body)
            check_model(asked.model)
            model = batcher.model
            if asked.dimensions is not None and not 1 <= asked.dimensions <= model.dimension:
                raise RequestError(
                    f"`dimensions` is {asked.dimensions}; this model's vectors have 1 to {model.dimension}.",
                    param="dimensions",
                )
            prompt = prompt_of(asked, model.prompts, model.default_prompt)
            inputs = await read_inputs(asked, prompt, state.limits, state.fetch)
            answer = await _unless_gone(request, batcher.embed(inputs))
        vectors = model.shortened(answer.vectors, asked.dimensions)
        if not torch.isfinite(vectors).all():
            raise ModelFailure("numbers that are not finite")

        def respond() -> Response:
            return json_response(answer_of(vectors, answer.tokens, state.name, asked.encoding_format))

        return await _in_background(vectors.numel(), respond)

    def check_model(name: str | None) -> None:
        if name is not None and name != state.name:
            raise RequestError(
                f"there is no model {name[:128]!r} here; this server has {state.name!r}.",
                status=404,
                param="model",
                code="model_not_found",
            )

    def described() -> dict[str, Any]:
        fields = {"id": state.name, "object": "model", "created": state.created, "owned_by": "llave_hf"}
        return {**fields, "max_model_len": state.batcher.model.max_length} if state.is_ready else fields

    @app.get("/v1/models")
    async def models(request: Request) -> Response:
        """The one model that is served."""
        check_key(request, state.key)
        return json_response({"object": "list", "data": [described()]})

    @app.get("/v1/models/{name:path}")
    async def model(request: Request, name: str) -> Response:
        """The model, by its name."""
        check_key(request, state.key)
        check_model(name)
        return json_response(described())

    @app.get("/health")
    async def health() -> Response:
        """200 once the model is open and has encoded; 503 before, after a failure of it, and while the server ends."""
        return json_response({"status": "ok"}) if state.is_ready else json_response({"status": "not ready"}, 503)

    @app.get("/metrics")
    async def metrics() -> Response:
        """For Prometheus."""
        return Response(state.metrics.text(), media_type=CONTENT_TYPE_LATEST)

    _add_errors(app)
    app.add_middleware(Observed, metrics=state.metrics)
    plain = app.openapi

    def with_parts() -> dict[str, Any]:
        found = plain()
        found.setdefault("components", {}).setdefault("schemas", {}).update(parts)
        return found

    app.openapi = with_parts  # type: ignore[method-assign]
    return app


def _add_errors(app: FastAPI) -> None:
    @app.exception_handler(RequestError)
    async def refused(_: Request, error: RequestError) -> Response:
        return error.response()

    @app.exception_handler(ClientDisconnect)
    async def gone(_: Request, error: ClientDisconnect) -> Response:
        return Response(status_code=_CLIENT_GONE)

    @app.exception_handler(HTTPException)
    async def unknown(request: Request, error: HTTPException) -> Response:
        message = f"{request.method} {request.url.path[:128]}: {error.detail}."
        return RequestError(message, status=error.status_code, headers=dict(error.headers or {})).response()

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> Response:
        return RequestError("the request's path or parameters are invalid.").response()

    @app.exception_handler(ModelFailure)
    async def failed(_: Request, error: ModelFailure) -> Response:
        return RequestError(f"the model failed ({error}).", status=500, kind="server_error").response()


async def _in_background(size: int, function: Callable[..., Any], *arguments: Any) -> Any:
    """A call that may take long, in a thread where it will."""
    return await asyncio.to_thread(function, *arguments) if size > _BACKGROUND else function(*arguments)


async def _unless_gone(request: Request, work: Awaitable[Answer]) -> Answer:
    """An answer; its work is dropped once the client has closed the connection."""

    async def wait_for_end() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    working, watching = asyncio.ensure_future(work), asyncio.ensure_future(wait_for_end())
    try:
        await asyncio.wait((working, watching), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnect
        return working.result()
    finally:
        for task in (working, watching):
            task.cancel()
