"""Pictures and clips from public addresses, for `--allow_fetch`: never from a network that only the server can reach.

An address is resolved once, every number it resolves to is checked, and the connection goes to one of those that were
checked: a name that resolves to something else a moment later gains nothing. Redirects are checked in the same way.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Awaitable, Callable, Iterable
from typing import Any
from urllib.parse import quote, urljoin, urlsplit

import httpcore

from llave_hf.model.media_llave import MediaError

SECONDS = 15.0  # for all of a fetch, redirects included
MAX_REDIRECTS = 3
MAX_ADDRESS = 4096  # characters
_REDIRECTS = (301, 302, 303, 307, 308)
_HEADERS = [(b"Accept", b"image/*, video/*"), (b"Accept-Encoding", b"identity"), (b"User-Agent", b"llave-serve")]
_ADDRESS_SIGNS = "!#$%&'()*+,/:;=?@[]~"  # stay as they are; what is beyond ASCII is written with %
_NAT64 = ipaddress.ip_network("64:ff9b::/96")

Numbers = list[str]
Resolve = Callable[[str, int], Awaitable[Numbers]]


def is_public(number: str) -> bool:
    """Whether an IP address is one that anybody can reach; of IPv6, also what it stands for in IPv4."""
    address = ipaddress.ip_address(number.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour
        if address in _NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(str(inner))
        if address.teredo is not None:
            return False
    return address.is_global and not address.is_multicast


async def resolve(host: str, port: int) -> Numbers:
    """The IP addresses of a name."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


class Fetcher:
    """Gets what lies at `http://` and `https://` addresses.

    Args:
        max_bytes: Of an answer.
        seconds: For all of a fetch.
        allowed: Says of an IP address whether it may be asked.
        resolver: From a name and a port to IP addresses.
    """

    def __init__(
        self,
        max_bytes: int,
        *,
        seconds: float = SECONDS,
        allowed: Callable[[str], bool] = is_public,
        resolver: Resolve = resolve,
    ) -> None:
        self._max_bytes = max_bytes
        self._seconds = seconds
        self._network = _CheckedNetwork(allowed, resolver)

    async def __call__(self, address: str) -> bytes:
        """The bytes at an address.

        Raises:
            MediaError: It is not to be asked, does not answer in time, or answers with too much or an error.
        """
        try:
            return await asyncio.wait_for(self._follow(address), self._seconds)
        except asyncio.TimeoutError:
            raise MediaError(f"could not be fetched within {self._seconds:g} seconds.") from None
        except (httpcore.ProtocolError, httpcore.NetworkError, httpcore.TimeoutException, OSError) as error:
            raise MediaError(f"could not be fetched ({type(error).__name__}); check the address.") from error
        except (ValueError, UnicodeError, httpcore.UnsupportedProtocol) as error:
            if isinstance(error, MediaError):
                raise
            raise MediaError("is no address that can be fetched; write https://host/path.") from error

    async def _follow(self, address: str) -> bytes:
        # A pool of its own for each fetch: a kept connection would be one that was checked for another name.
        async with httpcore.AsyncConnectionPool(network_backend=self._network, max_keepalive_connections=0) as pool:
            for _ in range(MAX_REDIRECTS + 1):
                parts = urlsplit(address)
                if parts.scheme not in ("http", "https") or not parts.hostname or len(address) > MAX_ADDRESS:
                    raise MediaError("leads to something that is no http:// or https:// address.")
                if parts.username is not None or parts.password is not None:
                    raise MediaError("has a user name in its address; leave it out.")
                asked = quote(address.partition("#")[0], safe=_ADDRESS_SIGNS)
                async with pool.stream("GET", asked, headers=_HEADERS) as answer:
                    headers = {name.lower(): value for name, value in answer.headers}
                    if answer.status in _REDIRECTS and b"location" in headers:
                        address = urljoin(address, headers[b"location"].decode("latin-1"))
                        continue
                    return await self._read(answer, headers)
        raise MediaError(f"was redirected more than {MAX_REDIRECTS} times.")

    async def _read(self, answer: httpcore.Response, headers: dict[bytes, bytes]) -> bytes:
        if answer.status != 200:
            raise MediaError(f"could not be fetched: its server answers {answer.status}.")
        if headers.get(b"content-encoding", b"identity").strip().lower() not in (b"", b"identity"):
            raise MediaError("could not be fetched: its server sends it compressed, though not asked to.")
        announced = headers.get(b"content-length", b"0")
        content = bytearray()
        if not announced.isdigit() or int(announced) <= self._max_bytes:
            async for chunk in answer.aiter_stream():
                content += chunk
                if len(content) > self._max_bytes:
                    break
            else:
                return bytes(content)
        raise MediaError(f"has more than {self._max_bytes} bytes, which is the limit.")


class _CheckedNetwork(httpcore.AsyncNetworkBackend):
    """Connects to addresses that were checked, and to nothing else."""

    def __init__(self, allowed: Callable[[str], bool], resolver: Resolve) -> None:
        self._allowed, self._resolve = allowed, resolver
        self._plain = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        try:
            numbers = await self._resolve(host, port)
        except OSError as error:
            raise MediaError("could not be fetched: its host has no address.") from error
        if not numbers or not all(self._allowed(number) for number in numbers):
            raise MediaError("leads into a private network, which this server asks nothing of.")
        return await self._plain.connect_tcp(numbers[0], port, timeout, local_address, socket_options)

    async def connect_unix_socket(self, *_: Any, **__: Any) -> httpcore.AsyncNetworkStream:
        raise MediaError("leads to a socket of this machine, which this server asks nothing of.")

    async def sleep(self, seconds: float) -> None:
        await self._plain.sleep(seconds)
