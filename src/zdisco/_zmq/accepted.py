"""The connections that `dataPub` accepted, by the peer whose inbox subscription came over them.

libzmq can end only connections that it made itself. What it accepted ends when its descriptor is
shut down, which also frees what waits in its queue. It ends with a reset, which goes out at once: an orderly end
would wait behind what TCP repeats in vain, where nothing comes back from the peer, and ever more slowly. Until then
the peer would hold us for connected.

Rule 1: the descriptors are libzmq's, which closes them in a thread of its own; then their numbers
may be anybody's. So nothing is done to one before a duplicate of it has shown that it is still
the connection that it was: accepted at our port, from the same address.

Rule 2: there is at most one entry for each connection that is open, as far as the events tell that were read.
"""

from __future__ import annotations

import os
import socket
import sys
from contextlib import suppress
from struct import pack
from typing import Any

_RESET = pack("ii", 1, 0)
"""To linger for no time: when libzmq closes the descriptor, TCP forgets what was not acknowledged."""


class Accepted:
    """Who subscribed over which descriptor. Knows nothing where descriptors of sockets cannot be duplicated.

    Args:
        port: Where `dataPub` listens.
    """

    def __init__(self, port: int) -> None:
        self._port = port
        self._open: set[int] = set()
        self._known: dict[int, tuple[bytes, Any]] = {}
        """By descriptor: the peer, and the address from which it came."""

    def __len__(self) -> int:
        return len(self._known)

    def accepted(self, fd: int) -> None:
        """A connection came in."""
        self._open.add(fd)

    def ended(self, fd: int) -> None:
        """A connection ended."""
        self._open.discard(fd)
        self._known.pop(fd, None)

    def note(self, fd: int, peer: bytes) -> None:
        """The subscription to this peer's inbox came over this descriptor, and all events before it were read."""
        if fd in self._open and (connection := _duplicate(fd)) is not None:
            with connection:
                if (address := self._origin(connection)) is not None:
                    self._known[fd] = peer, address

    def shut(self, peer: bytes) -> None:
        """End the connections of a peer."""
        for fd in [fd for fd, (owner, _) in self._known.items() if owner == peer]:
            if (connection := self._find(fd)) is not None:
                with connection, suppress(OSError):
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                    connection.shutdown(socket.SHUT_RDWR)
            del self._known[fd]

    def _find(self, fd: int) -> socket.socket | None:
        """A duplicate of the connection that we know by this descriptor, if it still is that one."""
        connection = _duplicate(fd)
        if connection is not None and self._origin(connection) != self._known[fd][1]:
            connection.close()
            return None
        return connection

    def _origin(self, connection: socket.socket) -> Any:
        """From where a connection to our port came; ``None`` if it is none."""
        try:
            is_ours = connection.family in (socket.AF_INET, socket.AF_INET6)
            return connection.getpeername() if is_ours and connection.getsockname()[1] == self._port else None
        except OSError:
            return None


def leads_to_itself(fd: int) -> bool:
    """Whether a TCP connection has the same socket at both ends.

    It comes about when a connection is tried to a port of this machine where nobody listens, and
    the system has chosen the same port for our own end. Then nobody can bind it any more.
    """
    connection = _duplicate(fd)
    if connection is None:
        return False
    with connection:
        try:
            is_tcp = connection.family in (socket.AF_INET, socket.AF_INET6)
            return is_tcp and connection.getsockname() == connection.getpeername()
        except OSError:
            return False


def _duplicate(fd: int) -> socket.socket | None:
    if sys.platform == "win32":  # a socket is no descriptor there
        return None
    try:
        ours = os.dup(fd)
    except OSError:
        return None
    try:
        return socket.socket(fileno=ours)
    except OSError:
        os.close(ours)
        return None
