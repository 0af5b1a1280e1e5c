"""Whether anybody listens at an endpoint: one plain TCP connection, closed at once."""

from __future__ import annotations

import errno
import os
import socket
from ipaddress import ip_address

import anyio
import anyio.lowlevel

from ._core.model import Endpoint, Probe


async def probe(endpoint: Endpoint, timeout: float) -> Probe:
    """Find out with a plain TCP connection whether anybody listens at a numeric endpoint.

    Cancellation: safe; the connection is closed.
    """
    await anyio.lowlevel.checkpoint()
    address = _tcp_address(endpoint)
    if address is None:
        return Probe.UNDECIDED
    family, where = address
    try:
        with socket.socket(family, socket.SOCK_STREAM) as attempt:
            attempt.setblocking(False)
            return await _try_connect(attempt, where, timeout)
    except OSError:
        return Probe.UNDECIDED  # no route, or no descriptor left


async def _try_connect(attempt: socket.socket, where: tuple[str, int], timeout: float) -> Probe:
    result = attempt.connect_ex(where)
    if result in (errno.EINPROGRESS, errno.EWOULDBLOCK):
        with anyio.move_on_after(timeout) as scope:
            await anyio.wait_writable(attempt)
        if scope.cancelled_caught:
            return Probe.UNDECIDED
        result = attempt.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if result == errno.ECONNREFUSED:
        return Probe.REFUSED
    if result:
        raise OSError(result, os.strerror(result))
    # A port of the ephemeral range where nobody listens can connect to itself.
    return Probe.REFUSED if attempt.getsockname() == attempt.getpeername() else Probe.ACCEPTED


def _tcp_address(endpoint: Endpoint) -> tuple[socket.AddressFamily, tuple[str, int]] | None:
    scheme, _, rest = endpoint.partition("://")
    host, _, port = rest.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    try:
        version = ip_address(host).version
        number = int(port)
    except ValueError:
        return None
    if scheme != "tcp" or not 0 < number < 65536:
        return None
    return (socket.AF_INET6 if version == 6 else socket.AF_INET), (host, number)
