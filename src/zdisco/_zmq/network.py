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
        address = numeric(endpoint)
        target = parse(address or endpoint)
        # The look-up of a name may block, so a thread does it.
        found = [] if address else await anyio.getaddrinfo(target.host, target.port)
    except (InvalidEndpoint, OSError, UnicodeError):
        return LOOPBACK
    for host in [str(entry[4][0]) for entry in found] or [target.host]:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM) as probe:
            try:
                # Connecting a datagram socket asks the routing table and sends nothing.
                probe.connect((host, target.port))
            except OSError:
                continue
            return str(probe.getsockname()[0])
    return LOOPBACK
