"""The process of `llave serve`: its model opens while it answers already, and signals end it."""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Callable
from types import FrameType

import uvicorn

from .app import build_app
from .served import ServedModel
from .state import ServerState

HEAD = 64 << 10  # bytes of a request's line and headers
KEEP_ALIVE = 75  # seconds; clients' pools keep idle connections for less


def serve(state: ServerState, opener: Callable[[], ServedModel], listener: socket.socket) -> None:
    """Serves until SIGTERM or Ctrl-C, which let requests under way be answered; a second one ends at once.

    Args:
        state: What is served and how.
        opener: Opens the model, while `/health` is answered already.
        listener: What [`listen`] gave.

    Raises:
        UserError: The model cannot be opened.
        KeyboardInterrupt: Ctrl-C, once everything is answered.
    """
    server = Server(state)
    host, port = listener.getsockname()[:2]
    address = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    def opened() -> None:
        if state.failure is None:
            sys.stdout.write(f"Serving {state.name} on {address}/v1/embeddings ({address}/docs)\n")
            sys.stdout.flush()
        else:
            server.should_exit = True

    thread = state.open_in_background(opener, opened)
    server.run(sockets=[listener])
    if state.failure is not None:
        raise state.failure
    if thread.is_alive():  # inside a library's import or a file's reading, of which Python's shutdown knows nothing
        os._exit(0 if server.stopped_by == signal.SIGTERM else 130)
    if server.stopped_by == signal.SIGINT:
        raise KeyboardInterrupt


class Server(uvicorn.Server):
    """uvicorn's, but that a signal that was obeyed is no error, and any second one ends at once."""

    def __init__(self, state: ServerState) -> None:
        config = uvicorn.Config(
            build_app(state),
            log_config=None,
            log_level="warning",
            access_log=False,
            timeout_keep_alive=KEEP_ALIVE,
            server_header=False,
            http="h11",  # httptools, which uvicorn takes where it is installed, sets no limit to a request's head
            h11_max_incomplete_event_size=HEAD,
            ws="none",
        )
        super().__init__(config)
        self.stopped_by: int | None = None
        self._state = state

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self.stopped_by is not None:
            os._exit(128 + sig)
        self.stopped_by = sig
        self._state.is_ending = True
        self.should_exit = True
