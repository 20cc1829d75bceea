"""The process of `llave serve`: its socket, its model, and how it ends."""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Callable
from types import FrameType

import uvicorn

from llave_hf.errors import UserError

from .app import build_app
from .served import ServedModel
from .state import ServerState

BACKLOG = 2048
KEEP_ALIVE = 75  # seconds; clients' pools keep idle connections for less


def serve(state: ServerState, opener: Callable[[], ServedModel], host: str, port: int) -> None:
    """Serves until SIGTERM or Ctrl-C, which let requests under way be answered; a second one ends at once.

    Args:
        state: What is served and how.
        opener: Opens the model, while `/health` is answered already.
        host: An address of this machine.
        port: 0 takes a free one, which the printed line names.

    Raises:
        UserError: The port is taken, or the model cannot be opened.
        KeyboardInterrupt: Ctrl-C, once everything is answered.
    """
    listener = listen(host, port)
    server = Server(state)
    shown = f"[{host}]" if ":" in host else host
    address = f"http://{shown}:{listener.getsockname()[1]}"

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
    if server.stopped_by == signal.SIGINT:
        raise KeyboardInterrupt
    if thread.is_alive():  # inside a library's import or a file's reading, of which Python's shutdown knows nothing
        sys.stdout.flush()
        os._exit(0)


class Server(uvicorn.Server):
    """uvicorn's, but that a signal that was obeyed is no error, and any second one ends at once."""

    def __init__(self, state: ServerState) -> None:
        config = uvicorn.Config(
            build_app(state),
            log_config=None,
            log_level="warning",
            access_log=False,
            timeout_keep_alive=KEEP_ALIVE,
            backlog=BACKLOG,
            server_header=False,
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


def listen(host: str, port: int) -> socket.socket:
    """The socket that requests come to; taken before the model is opened, which may take minutes."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[
            0
        ]
        # With TCP by its number: asyncio asks the number before it turns off the delay of small packets.
        listener = socket.socket(family, kind, socket.IPPROTO_TCP)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
    except (OSError, OverflowError) as error:
        raise UserError(
            f"nothing can be served on {host}:{port} ({getattr(error, 'strerror', None) or error}); choose another "
            "--port or --host."
        ) from error
    return listener
