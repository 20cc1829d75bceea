"""The socket that requests come to."""

from __future__ import annotations

import socket

from llave_hf.errors import UserError

BACKLOG = 2048


def listen(host: str, port: int) -> socket.socket:
    """A socket of its own on this machine; 0 takes a free port.

    Raises:
        UserError: The port is taken or no port, or the host is none of this machine.
    """
    if not 0 <= port <= 65535:  # getaddrinfo would take the rest of it by 65536
        raise UserError(f"nothing can be served on {host}:{port}; a port is a number from 1 to 65535, or 0 for any.")
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, _, _, address = found[0]
        # With TCP by its number: asyncio asks the number before it turns off the delay of small packets.
        listener = socket.socket(family, kind, socket.IPPROTO_TCP)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
    except (OSError, UnicodeError) as error:
        raise UserError(
            f"nothing can be served on {host}:{port} ({getattr(error, 'strerror', None) or error}); choose another "
            "--port or --host."
        ) from error
    return listener
