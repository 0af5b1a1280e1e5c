"""The real network: the channels of one peer over libzmq, and the addresses of this machine.

Rule: nothing listens on all interfaces unless asked. The default address is the one that
routes to the proxy, which is loopback for a proxy on loopback.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence

import anyio

from .._channels import DataChannel, Network, ProxyChannel
from .._core.config import PeerConfig
from .._core.endpoints import TcpEndpoint, numeric, parse
from .._core.errors import InvalidEndpoint
from .._core.model import Endpoint
from .channels import ZmqDataChannel, ZmqProxyChannel
from .sockets import new_context, terminate

LOOPBACK = "127.0.0.1"


class ZmqNetwork(Network):
    """The channels of one peer in a context of its own."""

    def __init__(self, config: PeerConfig) -> None:
        self._config = config
        self._context = new_context()

    async def data_channel(self, host: str | None, port: int, proxies: Sequence[Endpoint]) -> DataChannel:
        if host is None:
            host = await local_address_towards(proxies[0]) if proxies else LOOPBACK
        bracketed = f"[{host}]" if ":" in host else host
        return ZmqDataChannel(self._context, f"tcp://{bracketed}:{port or '*'}", self._config)

    def proxy_channel(self, endpoint: Endpoint) -> ProxyChannel:
        return ZmqProxyChannel(self._context, endpoint, self._config)

    async def resolve(self, endpoint: Endpoint) -> Endpoint | None:
        parsed = parse(endpoint)
        try:
            found = await anyio.getaddrinfo(parsed.host, parsed.port, type=socket.SOCK_STREAM)
            return numeric(str(TcpEndpoint(str(found[0][4][0]), parsed.port)))
        except (OSError, UnicodeError, InvalidEndpoint):
            return None

    async def aclose(self) -> None:
        await terminate(self._context)


async def local_address_towards(endpoint: Endpoint) -> str:
    """The local address from which this machine would reach a ``tcp`` endpoint; loopback for any other transport."""
    try:
        target = parse(endpoint)
        try:
            found = socket.getaddrinfo(
                target.host, target.port, type=socket.SOCK_DGRAM, flags=socket.AI_NUMERICHOST
            )
        except socket.gaierror:  # a name, whose look-up may block, so a thread does it
            found = await anyio.getaddrinfo(target.host, target.port, type=socket.SOCK_DGRAM)
    except (InvalidEndpoint, OSError, UnicodeError):
        return LOOPBACK
    for family, kind, protocol, _, address in found:
        with socket.socket(family, kind, protocol) as probe:
            try:
                # Connecting a datagram socket asks the routing table and sends nothing.
                probe.connect(address)
            except OSError:
                continue
            return str(probe.getsockname()[0])
    return LOOPBACK
