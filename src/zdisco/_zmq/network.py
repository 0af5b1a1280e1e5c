"""The real network: the channels of one peer over libzmq, and the addresses of this machine.

Rule: nothing listens on all interfaces unless asked. The default address is the one that
routes to the proxy, which is loopback for a proxy on loopback.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module

import anyio

from .._channels import DataChannel, Network, ProxyChannel
from .._core.config import PeerConfig
from .._core.endpoints import TcpEndpoint, numeric, parse
from .._core.errors import BindError, InvalidEndpoint
from .._core.model import Endpoint
from .channels import ZmqDataChannel, ZmqProxyChannel, bindable
from .sockets import new_context, terminate

logger = logging.getLogger("zdisco")

LOOPBACK = "127.0.0.1"
_DESCRIPTORS_PER_PEER = 2
"""Our connection to it, and its connection to us."""
_SPARE = 64
"""Descriptors for our own sockets, and for probes."""


class ZmqNetwork(Network):
    """The channels of one peer in a context of its own."""

    def __init__(self, config: PeerConfig) -> None:
        self._config = config
        _check_descriptors(config.expected_peers)
        self._context = new_context()

    async def data_channel(self, host: str, port: int) -> DataChannel:
        return ZmqDataChannel(self._context, bindable(host, port), self._config)

    def proxy_channel(self, endpoint: Endpoint) -> ProxyChannel:
        return ZmqProxyChannel(self._context, endpoint, self._config)

    async def local_address(self, proxies: Sequence[Endpoint]) -> str:
        return await local_address_towards(proxies)

    def has_address(self, host: str) -> bool:
        return has_address(host)

    async def resolve(self, endpoint: Endpoint) -> Endpoint | None:
        target = parse(endpoint)
        for host in await _addresses(target):
            with suppress(InvalidEndpoint):
                return numeric(str(TcpEndpoint(host, target.port)))
        return None

    async def aclose(self) -> None:
        await terminate(self._context)


def _check_descriptors(expected: int) -> None:
    """Warn where the process may not open as many descriptors as the expected peers take."""
    limit = _descriptor_limit()
    if limit is None:
        return
    room = max(0, limit - _open_descriptors() - _SPARE) // _DESCRIPTORS_PER_PEER
    if room < expected:
        logger.warning(
            "room for %d of %d expected peers: each takes %d descriptors, and the limit is %d (ulimit -n)",
            room,
            expected,
            _DESCRIPTORS_PER_PEER,
            limit,
        )


def _descriptor_limit() -> int | None:
    """How many descriptors this process may have open; ``None`` where there is no such limit."""
    try:
        resource = import_module("resource")
    except ImportError:  # not a Unix
        return None
    limit: int = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return None if limit == resource.RLIM_INFINITY else limit


def _open_descriptors() -> int:
    with suppress(OSError):
        return len(os.listdir("/proc/self/fd"))
    return 0


async def local_address_towards(endpoints: Sequence[Endpoint]) -> str:
    """The local address from which this machine reaches the first of these that it can reach.

    Loopback if none of them is ``tcp``.

    Raises:
        BindError: If none can be reached.
    """
    targets = [endpoint for endpoint in endpoints if endpoint.startswith("tcp://")]
    if not targets:
        return LOOPBACK
    for target in targets:
        for host in await _addresses(parse(target)):
            if local := route_to(host):
                return local
    reason = f"no local address leads to {' or '.join(targets)} (name unknown, or no route): give the host"
    raise BindError("tcp://*", errno.EADDRNOTAVAIL, reason)


async def _addresses(target: TcpEndpoint) -> list[str]:
    with suppress(InvalidEndpoint):
        address = numeric(str(target))
        if address is not None:
            return [parse(address).host]
    try:
        # A look-up may block, so a thread does it.
        found = await anyio.getaddrinfo(target.host, target.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return []
    return [str(entry[4][0]) for entry in found]


def route_to(host: str) -> str | None:
    """The local address from which this machine would reach a numeric host; ``None`` if there is no route."""
    with suppress(OSError), _datagram_socket(host) as datagram:
        # Connecting a datagram socket asks the routing table and sends nothing.
        datagram.connect((host, 9))
        return str(datagram.getsockname()[0])
    return None


def has_address(host: str) -> bool:
    """Whether a numeric host is an address of this machine now; true if that cannot be found out."""
    try:
        with _datagram_socket(host) as datagram:
            datagram.bind((host, 0))
    except OSError as error:
        return error.errno != errno.EADDRNOTAVAIL
    return True


def _datagram_socket(host: str) -> socket.socket:
    return socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
