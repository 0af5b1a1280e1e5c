"""Names that peers register for endpoints of their own, and where a name leads from here.

Rule 1: what is announced has one spelling. The host ``*`` stands for that of the announce, so that a
peer whose machine gets another address need not register anew.

Rule 2: all who see the same peers find the same order: first those that are not suspect, then who
started first, then the lower id; of one peer's endpoints as it registered them.

Rule 3: an endpoint that only its own machine reaches, ``ipc`` or loopback, leads nowhere from another one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from attrs import frozen

from .endpoints import ANYWHERE, TcpEndpoint, check_connectable, is_loopback, is_of_one_host, parse, split_bound
from .errors import InvalidEndpoint
from .model import Endpoint, PeerInfo

NAME_LIMIT = 255
"""Bytes of UTF-8 in a name."""


def check_registered(name: str) -> None:
    """Check a name.

    Raises:
        TypeError: If it is not text.
        ValueError: If it is empty, holds a NUL, cannot be UTF-8, or has more than `NAME_LIMIT` bytes.
    """
    if not isinstance(name, str):
        raise TypeError(f"a name is text, not {type(name).__name__}: {name!r}")
    if not name or "\0" in name:
        raise ValueError(f"a name is not empty and holds no NUL, unlike {name!r}")
    try:
        size = len(name.encode())
    except UnicodeEncodeError as error:
        raise ValueError(f"the name {name!r} holds a surrogate: it is not UTF-8") from error
    if size > NAME_LIMIT:
        raise ValueError(f"a name has at most {NAME_LIMIT} bytes of UTF-8, not {size}: {name[:20]!r}...")


def announced(endpoint: Endpoint) -> Endpoint:
    """An endpoint as it is announced under a name: a host that means all interfaces becomes ``*``.

    Raises:
        TypeError: If it is not text.
        InvalidEndpoint: If nobody could connect to it: it is neither ``tcp`` with a host and a port nor ``ipc``
            with a path, or its port is a wildcard.
    """
    if not isinstance(endpoint, str):
        raise TypeError(f"an endpoint is text, not {type(endpoint).__name__}: {endpoint!r}")
    if endpoint.startswith("tcp://"):
        host, port = split_bound(endpoint)
        if port in ("*", "0"):
            raise InvalidEndpoint(endpoint, "others cannot know its port: bind it first")
        if host in ANYWHERE:
            return f"tcp://*:{int(port)}"
    check_connectable(endpoint)
    return endpoint


@frozen
class Holder:
    """A peer that is there, ourselves too, and may have registered names."""

    info: PeerInfo
    started: int
    """When its life began, see `Announce.started`; tells who was there first."""
    is_suspect: bool = False

    @property
    def _rank(self) -> tuple[bool, int, bytes]:
        return self.is_suspect, self.started, self.info.id.bytes


def found(name: str, me: PeerInfo, holders: Iterable[Holder]) -> tuple[Endpoint, ...]:
    """Where a name leads from here, the best first."""
    ranked = sorted((holder for holder in holders if name in holder.info.names), key=lambda holder: holder._rank)
    return tuple(dict.fromkeys(endpoint for holder in ranked for endpoint in _reached(name, holder.info, me)))


def known(me: PeerInfo, holders: Iterable[Holder]) -> Mapping[str, tuple[Endpoint, ...]]:
    """All names that lead anywhere from here, in their order, and where."""
    endpoints: dict[str, dict[Endpoint, None]] = {}
    for holder in sorted(holders, key=lambda holder: holder._rank):
        for name in holder.info.names:
            endpoints.setdefault(name, {}).update(dict.fromkeys(_reached(name, holder.info, me)))
    return {name: tuple(there) for name, there in sorted(endpoints.items()) if there}


def _reached(name: str, holder: PeerInfo, me: PeerInfo) -> Iterator[Endpoint]:
    # Two data endpoints that are on loopback, and linked, are of one machine, whatever the hosts are called.
    is_near = is_loopback(me.endpoint) and is_loopback(holder.endpoint)
    is_near = is_near or holder.id == me.id or (bool(me.host) and holder.host == me.host)
    for endpoint in holder.names[name]:
        there = _located(endpoint, holder)
        if is_near or not is_of_one_host(there):
            yield there


def _located(endpoint: Endpoint, holder: PeerInfo) -> Endpoint:
    host, _, port = endpoint.rpartition(":")
    return str(TcpEndpoint(parse(holder.endpoint).host, int(port))) if host == "tcp://*" else endpoint
